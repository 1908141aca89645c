//! Answers that a thread has given, to be given again: of a flood most requests are refused, and to refuse must be
//! cheaper than to serve.

use std::cell::RefCell;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, StatusCode};

use super::fields;
use super::refusal::{Limit, RateLimitHeaders};

/// How many are kept, of less than 1 KiB each; a power of two. The jitter of a long wait spreads over 30 seconds.
const KEPT: usize = 256;

thread_local!(static GIVEN: RefCell<Vec<Option<Box<Answer>>>> = const { RefCell::new(Vec::new()) });

/// What makes the header fields of one answer over HTTP differ from those of another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub(super) limit: Limit,
    pub(super) status: StatusCode,
    /// Whole seconds.
    pub(super) after: Option<u64>,
    pub(super) left: u64,
    pub(super) close: bool,
    pub(super) headers: RateLimitHeaders,
    pub(super) envoy: bool,
}

impl Look {
    fn place(&self) -> usize {
        let after = self.after.unwrap_or(0) as usize;
        after.wrapping_mul(8).wrapping_add(self.limit.number()) % KEPT
    }
}

/// An answer that was given. Whoever gives it has it for himself, so that nobody counts references.
#[derive(Debug)]
pub(crate) struct Answer {
    look: Look,
    /// Whose name is in the body, if one is.
    name: Option<Box<str>>,
    headers: HeaderMap,
    body: Bytes,
    /// How often that name was given this body, as far as it matters.
    turns: u8,
}

/// A body that is given for so many times on end is kept as a text that nobody counts references to.
const LASTING: u8 = 16;

/// The answer with this look that was given last, with another body if it was for somebody else; or a new one.
#[inline]
pub(super) fn again(
    look: Look,
    name: Option<&str>,
    headers: impl FnOnce() -> HeaderMap,
    body: impl FnOnce() -> Bytes,
) -> Box<Answer> {
    let given = GIVEN.try_with(|given| {
        let mut given = given.try_borrow_mut().ok()?;
        given.get_mut(look.place())?.take()
    });
    match given.ok().flatten() {
        Some(mut answer) if answer.look == look => {
            if answer.name.as_deref() != name {
                answer.name = name.map(Into::into);
                answer.body = body();
                answer.turns = 0;
            }
            answer
        }
        _ => Box::new(Answer {
            look,
            name: name.map(Into::into),
            headers: headers(),
            body: body(),
            turns: 0,
        }),
    }
}

impl Answer {
    /// Gives it, with a body made of the bytes, and keeps it for the thread's next time.
    #[inline(always)]
    fn give<B>(mut self: Box<Self>, body: impl FnOnce(Bytes) -> B) -> Response<B> {
        if self.turns < LASTING {
            self.turns += 1;
            if self.turns == LASTING {
                self.body = fields::body(std::mem::take(&mut self.body));
            }
        }
        let mut response = Response::new(body(self.body.clone()));
        *response.headers_mut() = self.headers.clone();
        *response.status_mut() = self.look.status;
        let _ = GIVEN.try_with(|given| {
            if let Ok(mut given) = given.try_borrow_mut() {
                if given.is_empty() {
                    given.resize_with(KEPT, || None);
                }
                if let Some(place) = given.get_mut(self.look.place()) {
                    *place = Some(self);
                }
            }
        });
        response
    }
}

/// The answer to a request that is refused.
#[derive(Debug)]
pub(crate) enum Reply {
    Kept(Box<Answer>),
    /// One of a kind.
    Own(Box<Response<Bytes>>),
}

impl Reply {
    /// The response, with a body made of the bytes.
    #[inline(always)] // where it is called from elsewhere, the response is moved twice more
    pub(crate) fn into_response<B>(self, body: impl FnOnce(Bytes) -> B) -> Response<B> {
        match self {
            Self::Kept(answer) => answer.give(body),
            Self::Own(response) => (*response).map(body),
        }
    }

    /// The same with other header fields or another body.
    pub(crate) fn changed(self, change: impl FnOnce(&mut Response<Bytes>)) -> Self {
        let mut response = self.into_response(|body| body);
        change(&mut response);
        Self::Own(Box::new(response))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_is_given_again_is_what_would_be_said_anew() {
        let look = |turn: u64| Look {
            limit: [Limit::InFlight(7), Limit::InFlight(8), Limit::Ceiling][turn as usize % 3],
            status: StatusCode::TOO_MANY_REQUESTS,
            after: (!turn.is_multiple_of(5)).then_some(turn % 70),
            left: turn % 2,
            close: turn.is_multiple_of(3),
            headers: RateLimitHeaders::Draft11,
            envoy: true,
        };
        for turn in 0..4_000 {
            let look = look(turn);
            let field = HeaderValue::try_from(format!("{look:?}")).unwrap();
            let headers = || HeaderMap::from_iter([(http::header::WARNING, field.clone())]);
            for name in [None, Some("a"), Some("b")] {
                let text = format!("{:?} {name:?}", look.after);
                let give = || Reply::Kept(again(look, name, headers, || text.clone().into()));
                // A second one while the first is on its way, as of two requests at a time.
                for reply in [give(), give()] {
                    let given = reply.into_response(|body| body);
                    assert_eq!(given.status(), look.status);
                    assert_eq!(*given.headers(), headers(), "{turn}");
                    assert_eq!(given.into_body(), text, "{turn}");
                }
            }
        }
    }
}
