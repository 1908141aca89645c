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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Request;

    use crate::admit::{Admission, Mode, Policies, Style};
    use crate::clock::{MonotonicClock, Ticker};
    use crate::identify;
    use crate::outcome::Reason;
    use crate::pipeline::exempt::Exempt;
    use crate::pipeline::{CallerSlot, Core, Entrance, Standing};
    use crate::registry::{Limits, Registry};
    use crate::roster::Roster;

    fn core() -> Arc<Core> {
        let ticker = || Ticker::Monotonic(MonotonicClock::new());
        let limits = Limits::of(10, 10);
        let roster = Arc::new(Roster::new(Vec::new()).unwrap());
        let registry = Registry::new(Arc::clone(&roster), limits, ticker());
        let exempt = Exempt::new(["/healthz"]).unwrap();
        let now = ticker().now();
        let admission = Admission::new(Policies::default(), Mode::Enforce, Style::default(), now);
        let header = identify::header("x-client-id").verified();
        let standing = Standing { roster, exempt };
        let mut core = Core::new(
            registry,
            ticker(),
            Box::new([Box::new(header)]),
            standing,
            admission,
        );
        core.late_identity = true;
        Arc::new(core)
    }

    #[test]
    fn who_is_refused_after_its_identity_came_is_refused_there() {
        let core = core();
        let request = Request::builder().header("x-client-id", "a");
        let mut request = request.body(()).unwrap();
        let Entrance::Open(mut open) = core.admit(&mut request) else {
            panic!("let in");
        };
        let slot = request.extensions().get::<CallerSlot>().unwrap().clone();
        // The service's `call` may know at once, before its future is polled for the first time.
        assert!(slot.verified("b").is_some());
        let now = core.ticker.now();
        open.get().unwrap().refuse(Reason::Fleet, now);
        assert!(slot.verified("c").is_none());
        drop(open);
        let counts = |name| {
            let totals = core.registry.named(name).unwrap().totals();
            let refused = totals.refused[Reason::Fleet.index()];
            (totals.started, totals.in_flight(), refused)
        };
        assert_eq!([counts("a"), counts("b")], [(0, 0, 0), (1, 0, 1)]);
    }
}
