//! What the service's own authentication, or its TLS acceptor, left in the request's extensions.

use std::any::type_name;
use std::fmt;

use super::{Head, Identify, Identity};
use crate::caller::{Provenance, Source};

/// The client is named by an extension of type `T`: the claims of a validated token, the subject of a peer
/// certificate.
///
/// No client can put anything into the extensions, so the name is [`Verified`](Provenance::Verified): as good
/// as the code that left it. A request without a `T`, or one for which the closure answers `None`, is for the
/// next source; a text that is not a name is [`Identity::invalid`]. The name is borrowed from the extension.
///
/// ```
/// use callerid::identify;
///
/// #[derive(Clone)]
/// struct Claims { client_id: Option<String> }
///
/// let source = identify::extension::<Claims>(|claims| claims.client_id.as_deref());
/// ```
pub fn extension<T>(
    name: impl for<'t> Fn(&'t T) -> Option<&'t str> + Send + Sync + 'static,
) -> ExtensionSource<T>
where
    T: Send + Sync + 'static,
{
    ExtensionSource {
        name: Box::new(name),
        source: Source::Extension,
    }
}

type NameOf<T> = dyn for<'t> Fn(&'t T) -> Option<&'t str> + Send + Sync;

/// A source made by [`extension`].
pub struct ExtensionSource<T> {
    name: Box<NameOf<T>>,
    source: Source,
}

impl<T> ExtensionSource<T> {
    /// Says that the name is that of a peer certificate, for the label `source`.
    #[must_use]
    pub fn certificate(mut self) -> Self {
        self.source = Source::Certificate;
        self
    }
}

impl<T> Identify for ExtensionSource<T>
where
    T: Send + Sync + 'static,
{
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>> {
        let name = (self.name)(head.extensions().get::<T>()?)?;
        Some(Identity::named_in(name, Provenance::Verified, self.source))
    }
}

impl<T> fmt::Debug for ExtensionSource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtensionSource")
            .field("type", &type_name::<T>())
            .field("source", &self.source)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::INVALID;

    #[derive(Clone)]
    struct Claims(Option<&'static str>);

    fn who(claims: Option<Claims>, source: &ExtensionSource<Claims>) -> Option<(String, Source)> {
        let mut request = http::Request::new(());
        claims.map(|claims| request.extensions_mut().insert(claims));
        let head = Head::of(&request);
        let found = source.identify(&head)?;
        Some((found.name().to_owned(), found.source()))
    }

    #[test]
    fn an_extension_names_the_caller() {
        let source = extension::<Claims>(|claims| claims.0);
        assert_eq!(
            who(Some(Claims(Some("checkout"))), &source),
            Some(("checkout".to_owned(), Source::Extension))
        );
        assert_eq!(
            who(Some(Claims(Some("checkout"))), &source.certificate()),
            Some(("checkout".to_owned(), Source::Certificate))
        );
    }

    #[test]
    fn nothing_there_is_for_the_next_source() {
        let source = extension::<Claims>(|claims| claims.0);
        assert_eq!(who(None, &source), None);
        assert_eq!(who(Some(Claims(None)), &source), None);
    }

    #[test]
    fn what_is_no_name_is_invalid() {
        let source = extension::<Claims>(|claims| claims.0);
        for bad in ["", "a b", "ip:10.0.0.1"] {
            assert_eq!(
                who(Some(Claims(Some(bad))), &source),
                Some((INVALID.to_owned(), Source::Invalid))
            );
        }
    }
}
