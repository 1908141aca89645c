//! One request's open account. It is opened once and finished once, through whichever door the request leaves;
//! the last door is `Drop`, which says that the caller went away.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::late::{CallerSlot, Moved};
use super::{Core, grpc_routes};
use crate::admit::Permit;
use crate::caller::Caller;
use crate::classify::{Classify, ClassifyEos, ClassifyResponse, Verdict, declared_length};
use crate::clock::Timestamp;
use crate::outcome::{Class, ErrorDetail, Reason};
use crate::record::lane::{Lane, Settlement};
use crate::record::route::RouteRef;
use crate::record::sample::{FailedRequest, TraceId, short};
use crate::registry::entry::Entry;

/// An open request: counted as started, not yet as ended.
///
/// Dropping it counts the request as cancelled.
#[derive(Debug)]
pub(crate) struct Ticket {
    place: Booked,
    begun: Timestamp,
    stage: Stage,
    request_bytes: u64,
    response_bytes: u64,
    /// How much of the declared length of the response is still to come.
    expected: Option<u64>,
    status: Option<StatusCode>,
    trace_id: TraceId,
    pub(super) rare: Option<Box<Rare>>,
    settled: bool,
    /// The head of the response is there, and its time is not noted yet.
    head_is_due: bool,
    /// What the request holds of limits, until it ends.
    permit: Option<Permit>,
}

/// Where the request is counted.
#[derive(Debug)]
struct Booked {
    lane: Arc<Lane>,
    tracked: Option<Arc<Entry>>,
}

/// What few requests need.
#[derive(Debug, Default)]
pub(super) struct Rare {
    #[cfg(feature = "redis")]
    pub(super) waiting: Option<super::Waiting>,
    /// The path of a gRPC method that is not known yet, and who learns it.
    unlearnt: Option<(Box<str>, Arc<Core>)>,
    detail: Option<ErrorDetail>,
    slot: Option<CallerSlot>,
    /// The header of the response that tells the caller who it was taken for.
    pub(super) echo: Option<(HeaderName, Caller)>,
}

#[derive(Debug)]
enum Stage {
    Request(Classify),
    Response(ClassifyEos),
    Over,
}

impl Ticket {
    #[inline]
    pub(super) fn open(
        lane: Arc<Lane>,
        tracked: Option<Arc<Entry>>,
        begun: Timestamp,
        classify: Classify,
        request_bytes: u64,
        trace_id: TraceId,
    ) -> Self {
        lane.start(begun);
        Self {
            place: Booked { lane, tracked },
            begun,
            stage: Stage::Request(classify),
            request_bytes,
            response_bytes: 0,
            expected: None,
            status: None,
            trace_id,
            rare: None,
            settled: false,
            head_is_due: false,
            permit: None,
        }
    }

    /// The request began before it was opened here.
    #[cfg(feature = "replay")]
    pub(super) fn began_earlier(&mut self, by: std::time::Duration) {
        let begun = self.begun - by;
        self.place.lane.began_earlier(self.begun.since(begun));
        self.begun = begun;
    }

    /// What admission has found: what the request holds, and why it would have been refused.
    #[inline]
    pub(super) fn admitted(&mut self, permit: Option<Permit>, would_refuse: Option<Reason>) {
        self.permit = permit;
        if let Some(reason) = would_refuse {
            self.place.lane.would_refuse(reason);
            if let Some(entry) = &self.place.tracked {
                entry.would_refuse(reason);
            }
        }
    }

    /// Nothing makes a request wait.
    #[cfg(not(feature = "redis"))]
    #[inline]
    pub(crate) fn poll_admission(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<crate::admit::Reply>> {
        std::task::Poll::Ready(None)
    }

    /// Counts a request that has waited as refused.
    #[cfg(feature = "redis")]
    pub(super) fn refuse(&mut self, reason: Reason, now: Timestamp) {
        self.settle_identity();
        self.settled = true;
        self.place.lane.refuse_started(reason, now);
        if let Some(entry) = &self.place.tracked {
            entry.refuse(reason);
        }
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// The route will be known by the answer: a gRPC method that nobody has called before.
    pub(super) fn learn_route(&mut self, path: &str, core: Arc<Core>) {
        if path.len() <= grpc_routes::LONGEST {
            self.rare().unlearnt = Some((path.into(), core));
        }
    }

    /// The service may say later who the caller is.
    pub(super) fn await_identity(&mut self, core: Arc<Core>) -> CallerSlot {
        let slot = CallerSlot::open(
            core,
            Arc::clone(&self.place.lane),
            self.place.tracked.clone(),
        );
        self.rare().slot = Some(slot.clone());
        slot
    }

    /// The head of the response is there. Says whether the request has ended with it.
    #[inline]
    pub(crate) fn response(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        detail: Option<&ErrorDetail>,
    ) -> bool {
        let Stage::Request(classify) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return false;
        };
        if self.rare.is_some() {
            self.settle_identity();
        }
        self.status = Some(status);
        if let Some(detail) = detail {
            self.rare().detail = Some(detail.clone());
        }
        self.head_is_due = true;
        let verdict = match classify.response(status, headers, detail) {
            ClassifyResponse::Ended(verdict) => verdict,
            ClassifyResponse::Body(eos) => {
                if !eos.awaits_trailers() {
                    self.expected = declared_length(headers);
                }
                if self.expected != Some(0) {
                    self.stage = Stage::Response(eos);
                    return false;
                }
                eos.end(None)
            }
        };
        let now = self.place.lane.ticker.now();
        self.settle(verdict, now);
        true
    }

    /// The server has the head and has asked for the body, of which nothing more is there: the head goes out now. That
    /// is when it is timed. Of a response that is there at once the time is read once, at its end.
    #[inline]
    pub(crate) fn head_goes_out(&mut self) {
        if self.head_is_due {
            self.note_head(self.place.lane.ticker.now());
        }
    }

    fn note_head(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.head_is_due) {
            let took = now.since(self.begun);
            self.place.lane.first_byte(took);
            if let Some(permit) = &self.permit {
                permit.answered(took);
            }
        }
    }

    /// Tells the caller who it was taken for, where the service wants that.
    #[inline]
    pub(crate) fn echo(&mut self, headers: &mut HeaderMap) {
        if let Some(rare) = &mut self.rare
            && let Some((name, caller)) = rare.echo.take()
            // A caller's name is visible ASCII, which every header value may hold.
            && let Ok(value) = HeaderValue::from_str(caller.name())
        {
            headers.insert(name, value);
        }
    }

    /// A frame of data has passed. Says whether it was the last, as far as the declared length goes.
    #[inline]
    pub(crate) fn data(&mut self, bytes: usize) -> bool {
        self.response_bytes = self.response_bytes.wrapping_add(bytes as u64);
        if let Some(permit) = &mut self.permit {
            permit.streams_since(self.begun);
        }
        match &mut self.expected {
            None => false,
            Some(expected) => {
                *expected = expected.saturating_sub(bytes as u64);
                *expected == 0
            }
        }
    }

    /// The body has ended.
    #[inline]
    pub(crate) fn end(&mut self, trailers: Option<&HeaderMap>) {
        if let Stage::Response(eos) = std::mem::replace(&mut self.stage, Stage::Over) {
            let now = self.place.lane.ticker.now();
            self.settle(eos.end(trailers), now);
        }
    }

    /// The inner service returned an error or panicked, or the body did.
    pub(crate) fn fail(&mut self) {
        let now = self.place.lane.ticker.now();
        self.settle(Verdict::of(Class::Failed), now);
    }

    /// Takes over the place that a late identity has found.
    fn settle_identity(&mut self) {
        let moved = self
            .rare
            .as_ref()
            .and_then(|rare| rare.slot.as_ref())
            .and_then(CallerSlot::close);
        if let Some(Moved {
            lane,
            tracked,
            seat,
        }) = moved
        {
            self.place = Booked { lane, tracked };
            if let (Some(permit), Some(seat)) = (&mut self.permit, seat) {
                permit.move_to(seat);
            }
        }
    }

    /// Counts the end of the request: the one place where that happens.
    fn settle(&mut self, verdict: Verdict, now: Timestamp) {
        let class = verdict.class;
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let detail = if self.rare.is_some() {
            self.settle_rare(verdict)
        } else {
            None
        };
        self.note_head(now);
        let lane = &self.place.lane;
        lane.settle(Settlement {
            class,
            ended: now,
            took: now.since(self.begun),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
        });
        if let Some(entry) = &self.place.tracked {
            entry.settle(class);
        }
        if let Some(detail) = &detail {
            lane.row.count_detail(class, detail);
        }
        if class != Class::Ok {
            let (status, trace_id) = (self.status.map(|status| status.as_u16()), self.trace_id);
            lane.row.failed(|| FailedRequest {
                at: now,
                route: Arc::clone(&lane.route),
                status,
                class,
                code: detail.as_ref().map(|detail| short(&detail.code).into()),
                trace_id,
            });
        }
    }

    /// What few requests need at their end: a place that was found late, a route that was learnt.
    #[cold]
    fn settle_rare(&mut self, verdict: Verdict) -> Option<ErrorDetail> {
        self.settle_identity();
        let rare = *self.rare.take()?;
        if let Some((path, core)) = &rare.unlearnt
            && verdict.method_exists
            && core.grpc_routes.learn(path)
        {
            self.reroute(path, core);
        }
        rare.detail
    }

    /// Counts the end under a route that is only known now. The start stays where it was: routes count ends.
    fn reroute(&mut self, path: &str, core: &Core) {
        let route = RouteRef::new(&http::Method::POST, path);
        self.place.lane = core.registry.reroute(&self.place.lane, route);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            let now = self.place.lane.ticker.now();
            self.settle(Verdict::of(Class::Cancelled), now);
        }
    }
}

/// Whether a layer of the same table has attributed the request already.
#[inline]
pub(super) fn attributed(extensions: &http::Extensions, by: u64) -> bool {
    extensions
        .get::<Caller>()
        .is_some_and(|caller| caller.attributed_by() == by)
}
