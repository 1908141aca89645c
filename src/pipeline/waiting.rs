//! A request that waits for the fleet: its account is open, the inner service's future is not polled yet.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::{Core, Ticket};
use crate::admit::{Form, Heard, Reply, Seat};
use crate::caller::Caller;

/// What it takes to go on with it, or to refuse it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) core: Arc<Core>,
    pub(super) asked: crate::admit::Waiting,
    pub(super) seat: Arc<Seat>,
    pub(super) caller: Caller,
    pub(super) form: Form,
}

impl Waiting {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let Self { core, asked, .. } = self;
        core.admission.poll(asked, || core.ticker.now(), cx)
    }
}

impl Ticket {
    /// The inner service's future is not to be polled before [`Ticket::poll_admission`] has ended.
    pub(super) fn await_admission(&mut self, waiting: Waiting) {
        self.rare().waiting = Some(waiting);
    }

    pub(crate) fn waits(&self) -> bool {
        self.rare
            .as_ref()
            .is_some_and(|rare| rare.waiting.is_some())
    }

    /// Waits for the fleet, where the request has to; then the answer, if it is refused.
    #[inline]
    pub(crate) fn poll_admission(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        match &mut self.rare {
            Some(rare) if rare.waiting.is_some() => self.poll_waiting(cx),
            _ => Poll::Ready(None),
        }
    }

    #[cold]
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        let place = &mut self.rare().waiting;
        let Some(heard) = place.as_mut().map(|waiting| waiting.poll(cx)) else {
            return Poll::Ready(None);
        };
        let heard = std::task::ready!(heard);
        let Some(waiting) = place.take() else {
            return Poll::Ready(None);
        };
        let Waiting {
            core,
            asked,
            seat,
            caller,
            form,
        } = waiting;
        let now = core.ticker.now();
        let mut denial = None;
        if let Some((permit, would_refuse)) = core.admission.resume(asked, heard, &mut denial) {
            self.admitted(permit, would_refuse);
        }
        Poll::Ready(denial.map(|denial| {
            self.refuse(denial.reason, now);
            core.refuse(&denial, &seat, &caller, form, now)
        }))
    }
}
