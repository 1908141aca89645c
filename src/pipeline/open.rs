//! The account of an open request as the middleware carries it: a pointer, from the head of the request to the end
//! of the response's body. The memory behind it is the thread's own and used again, so that a request allocates none.

use std::cell::RefCell;

use super::Ticket;

/// Memory that a thread keeps: as many accounts as are usually open at once.
const KEPT: usize = 64;

/// In a box each, which moves as a pointer.
type Memory = Box<Option<Ticket>>;

thread_local!(static POOL: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) });

/// The account of a request, while it is open.
pub(crate) struct Open(Option<Memory>);

impl Open {
    /// No account: the request is counted elsewhere, or not at all.
    pub(crate) const NONE: Self = Self(None);

    #[inline]
    pub(super) fn new(ticket: Ticket) -> Self {
        let known = POOL.try_with(|pool| pool.try_borrow_mut().ok()?.pop());
        Self(Some(match known.ok().flatten() {
            Some(mut memory) => {
                *memory = Some(ticket);
                memory
            }
            None => Box::new(Some(ticket)),
        }))
    }

    #[inline]
    pub(crate) fn get(&mut self) -> Option<&mut Ticket> {
        self.0.as_deref_mut().and_then(Option::as_mut)
    }

    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Closes the account: what has not ended counts as cancelled.
    #[inline]
    pub(crate) fn close(&mut self) {
        let Some(mut memory) = self.0.take() else {
            return;
        };
        *memory = None;
        let left = POOL.try_with(|pool| match pool.try_borrow_mut() {
            Ok(mut pool) if pool.len() < KEPT => {
                pool.push(memory);
                None
            }
            _ => Some(memory),
        });
        drop(left);
    }

    /// Guards what comes next, up to [`Unwinding::passed`]: the request ends as failed when it unwinds.
    #[inline]
    pub(crate) fn guarded(&mut self) -> Unwinding<'_> {
        Unwinding(self)
    }
}

impl Drop for Open {
    #[inline]
    fn drop(&mut self) {
        self.close();
    }
}

/// See [`Open::guarded`].
pub(crate) struct Unwinding<'a>(&'a mut Open);

impl Unwinding<'_> {
    #[inline]
    pub(crate) fn passed(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.get() {
            ticket.fail();
        }
        self.0.close();
    }
}
