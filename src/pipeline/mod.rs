//! The order of the stages, written once and without tower: identify, then the inner service, then classify, then
//! record. A replayed log goes the same way as a request.

mod exempt;
mod grpc_routes;
mod late;
#[cfg(feature = "replay")]
mod logged;
mod open;
pub(crate) mod paths;
mod standing;
mod ticket;
mod unread;
#[cfg(feature = "redis")]
mod waiting;

use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderName, HeaderValue, Method, Request, header};

pub(crate) use self::exempt::{DEFAULT as DEFAULT_EXEMPT, Exempt};
use self::grpc_routes::GrpcRoutes;
pub use self::late::CallerSlot;
#[cfg(feature = "replay")]
pub(crate) use self::logged::Logged;
pub(crate) use self::open::Open;
use self::paths::Paths;
use self::standing::InForce;
pub(crate) use self::standing::Standing;
use self::ticket::Ticket;
use self::unread::LeftAlone;
pub(crate) use self::unread::{Unread, is_coming};
#[cfg(feature = "redis")]
use self::waiting::Waiting;
use crate::admit::{Admission, Ask, Denial, Form, Gate, Reply, Seat, Subject, Verdict};
use crate::caller::{Caller, EXEMPT, INVALID, OTHER, Provenance, Source, UNKNOWN};
use crate::classify::{Classify, declared_length};
use crate::clock::{Ticker, Timestamp};
use crate::identify::{Head, Identify, Identity};
use crate::record::route::RouteRef;
use crate::record::sample::TraceId;
use crate::registry::entry::{Entry, Trust};
use crate::registry::faces::Face;
use crate::registry::versions::Said;
use crate::registry::{Place, Registry, Who};
#[cfg(feature = "config")]
use crate::roster::Roster;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Names the route of a request, for stacks other than axum.
pub(crate) type RouteFn = dyn for<'h> Fn(&'h Head<'_>) -> Option<&'h str> + Send + Sync;

/// Tells how many tokens a request takes, from its head.
pub(crate) type CostFn = dyn Fn(&Head<'_>) -> u32 + Send + Sync;

/// Tells the address of a request's peer, from the extensions that the listener left.
pub(crate) type PeerFn = dyn Fn(&http::Extensions) -> Option<IpAddr> + Send + Sync;

/// What every clone of the layer and of the handle shares.
pub(crate) struct Core {
    pub(crate) registry: Registry,
    pub(crate) ticker: Ticker,
    pub(crate) sources: Box<[Box<dyn Identify>]>,
    standing: InForce,
    pub(crate) route: Option<Box<RouteFn>>,
    pub(crate) late_identity: bool,
    pub(crate) response_header: Option<HeaderName>,
    pub(crate) peer: Option<Box<PeerFn>>,
    pub(crate) cost: Option<Box<CostFn>>,
    pub(crate) admission: Admission,
    /// The header that tells a caller's version, instead of `User-Agent`.
    pub(crate) version_header: Option<HeaderName>,
    pub(crate) paths: Paths,
    pub(crate) left_alone: LeftAlone,
    grpc_routes: GrpcRoutes,
    hook_panicked: AtomicBool,
}

/// What becomes of a request at the door.
pub(crate) enum Entrance {
    /// It is none of our business: an outer layer of the same [`Callers`](crate::Callers) has attributed it, or the
    /// switch is off.
    Pass,
    Open(Open),
    /// The answer, without a look at the body and without the inner service.
    Refused(Reply),
}

impl Core {
    pub(crate) fn new(
        registry: Registry,
        ticker: Ticker,
        sources: Box<[Box<dyn Identify>]>,
        standing: Standing,
        admission: Admission,
    ) -> Self {
        Self {
            registry,
            ticker,
            sources,
            standing: InForce::new(standing),
            route: None,
            late_identity: false,
            response_header: None,
            peer: None,
            cost: None,
            admission,
            version_header: None,
            paths: Paths::default(),
            left_alone: LeftAlone::default(),
            grpc_routes: GrpcRoutes::default(),
            hook_panicked: AtomicBool::new(false),
        }
    }

    /// Puts another roster and other exempt paths in force for the next request.
    #[cfg(feature = "config")]
    pub(crate) fn set_standing(&self, roster: Roster, exempt: Exempt) {
        let roster = Arc::new(roster);
        roster.remember(&self.registry.roster());
        self.registry.set_roster(&roster, self.ticker.now());
        self.standing.set(Standing { roster, exempt });
    }

    /// Attributes a request, and either opens its account and puts the caller into its extensions, or refuses it.
    #[inline]
    pub(crate) fn admit<B>(self: &Arc<Self>, request: &mut Request<B>) -> Entrance {
        let gate = self.admission.gate();
        if gate == Gate::Off {
            return Entrance::Pass;
        }
        if ticket::attributed(request.extensions(), self.registry.id()) {
            return Entrance::Pass;
        }
        let now = self.ticker.now();
        let held = self.standing.held();
        let standing = &*held.standing;
        let head = Head::new(request, &standing.roster, now);
        let classify = Classify::new(head.method(), head.headers());
        let (route, learn) = self.route_of(&head, classify);
        let guarded = gate == Gate::Guarded;
        let exempt = standing.exempt.matches(head.uri().path());
        let mut place = if exempt {
            let who = Who::ours(EXEMPT, Source::None);
            self.registry.place(&who, route, || None, now)
        } else {
            self.place(&head, route, now)
        };
        if self.paths.are_watched() {
            self.paths.note(place.lane(), head.uri().path());
        }
        let mut permit = None;
        let mut would_refuse = None;
        #[cfg(feature = "redis")]
        let mut waiting = None;
        let mut terms = std::mem::take(place.terms());
        if guarded && let Some(seat) = self.seat(place.entry(), place.lane().provenance) {
            let ask = Ask {
                method: route.method(),
                template: route.template(),
                cost: self
                    .cost
                    .as_ref()
                    .and_then(|cost| self.hook(|| cost(&head))),
                now,
            };
            let subject = || self.subject(place.entry(), place.lane().provenance);
            let mut denial = None;
            let verdict = self
                .admission
                .decide(seat, &ask, subject, &mut terms, &mut denial);
            if let Some(denial) = &denial {
                place.lane().refuse(denial.reason);
                if let Some(entry) = place.tracked() {
                    entry.refuse(denial.reason);
                }
                let caller = place.caller();
                crate::span::record_caller(caller.name());
                let form = form(&head, classify.is_grpc());
                let reply = self.refuse(denial, seat, caller, form, now);
                *place.terms() = terms;
                place.leave();
                held.leave();
                return Entrance::Refused(reply);
            }
            match verdict {
                Verdict::Admit {
                    permit: held,
                    would_refuse: reason,
                } => (permit, would_refuse) = (held, reason),
                Verdict::Refuse => {}
                #[cfg(feature = "redis")]
                Verdict::Wait(asked) => {
                    waiting = Some(Waiting {
                        core: Arc::clone(self),
                        asked,
                        seat: Arc::clone(seat),
                        caller: place.caller().clone(),
                        form: form(&head, classify.is_grpc()),
                    });
                }
            }
        }
        // Hardly a GET has a body: it does not pay for the look.
        let bodyless = matches!(*head.method(), Method::GET | Method::HEAD);
        let length = if bodyless {
            0
        } else {
            declared_length(head.headers()).unwrap_or(0)
        };
        let trace_id = head
            .headers()
            .get(&TRACEPARENT)
            .map_or_else(TraceId::default, |value| {
                TraceId::in_traceparent(value.as_bytes())
            });
        *place.terms() = terms;
        let (lane, tracked, caller) = place.depart();
        held.leave();
        let mut ticket = Ticket::open(lane, tracked, now, classify, length, trace_id);
        ticket.admitted(permit, would_refuse);
        #[cfg(feature = "redis")]
        if let Some(waiting) = waiting {
            ticket.await_admission(waiting);
        }
        if learn {
            ticket.learn_route(request.uri().path(), Arc::clone(self));
        }
        if self.late_identity && !exempt {
            let slot = ticket.await_identity(Arc::clone(self));
            request.extensions_mut().insert(slot);
        }
        crate::span::record_caller(caller.name());
        if let Some(header) = &self.response_header {
            ticket.rare().echo = Some((header.clone(), caller.clone()));
        }
        request.extensions_mut().insert(caller);
        Entrance::Open(Open::new(ticket))
    }

    /// What admission keeps of a caller; `None` for a probe, which is never refused.
    #[inline]
    pub(in crate::pipeline) fn seat<'s>(
        &'s self,
        entry: &'s Entry,
        provenance: Provenance,
    ) -> Option<&'s Arc<Seat>> {
        match (entry.trust, entry.name()) {
            (Trust::Ours, EXEMPT) => None,
            (Trust::Ours, OTHER) => Some(self.admission.seat_of_others(provenance)),
            _ => Some(entry.seat_or(|| self.admission.seat(&entry.subject()))),
        }
    }

    /// Whom a policy is looked up for. Callers without an entry have nothing but their provenance.
    fn subject<'e>(&self, entry: &'e Entry, provenance: Provenance) -> Subject<'e> {
        let subject = entry.subject();
        if entry.trust == Trust::Ours && subject.name == OTHER {
            return Subject {
                provenance,
                ..subject
            };
        }
        subject
    }

    /// The answer to a request that is refused. Not cold: of a flood most are.
    #[inline(never)]
    fn refuse(
        &self,
        denial: &Denial,
        seat: &Seat,
        caller: &Caller,
        form: Form,
        now: Timestamp,
    ) -> Reply {
        let refusal = self.admission.refusal(denial, seat, caller, form, now);
        // The operator's own answer, or ours.
        let reply = match self.admission.custom() {
            None => refusal.reply(),
            Some(custom) => {
                let kept = refusal.kept();
                self.hook(|| custom(&kept))
                    .map_or_else(|| refusal.reply(), |own| Reply::Own(Box::new(own)))
            }
        };
        if let Some(name) = &self.response_header
            && let Ok(value) = HeaderValue::from_str(caller.name())
        {
            return reply.changed(|response| {
                response.headers_mut().insert(name, value);
            });
        }
        reply
    }

    /// The route, and whether it is a gRPC method that is not known yet.
    #[inline]
    fn route_of<'h>(&self, head: &'h Head<'_>, classify: Classify) -> (RouteRef<'h>, bool) {
        if let Some(name) = &self.route
            && let Some(template) = self.hook(|| name(head)).flatten()
        {
            return (RouteRef::new(head.method(), template), false);
        }
        #[cfg(feature = "axum")]
        if let Some(matched) = head.extensions().get::<axum::extract::MatchedPath>() {
            return (RouteRef::new(head.method(), matched.as_str()), false);
        }
        if classify.is_grpc() {
            let path = head.uri().path();
            if self.grpc_routes.knows(path) {
                return (RouteRef::new(head.method(), path), false);
            }
            return (RouteRef::UNMATCHED, true);
        }
        (RouteRef::UNMATCHED, false)
    }

    #[inline]
    fn place(&self, head: &Head<'_>, route: RouteRef<'_>, now: Timestamp) -> Place {
        let mut rare = None;
        let who = match self.identify(head, &mut rare) {
            Found::Borrowed(name, provenance, source) => who(name, provenance, source),
            Found::Nobody => {
                self.count_face(head);
                Who::ours(UNKNOWN, Source::None)
            }
            Found::Rare => match &rare {
                Some(identity) if identity.is_named() => {
                    who(identity.name(), identity.provenance(), identity.source())
                }
                Some(identity) if identity.is_invalid() => Who::ours(INVALID, Source::Invalid),
                identity => {
                    self.count_face(head);
                    let source = identity.as_ref().map_or(Source::None, Identity::source);
                    Who::ours(UNKNOWN, source)
                }
            },
        };
        let said = || self.said(head.headers());
        self.registry.place(&who, route, said, now)
    }

    /// What the request says about the version of its caller.
    #[inline]
    fn said<'h>(&self, headers: &'h http::HeaderMap) -> Option<Said<'h>> {
        let (name, plain) = match &self.version_header {
            None => (&header::USER_AGENT, false),
            Some(name) => (name, true),
        };
        let text = headers.get(name)?.as_bytes();
        Some(Said { text, plain })
    }

    /// What the sources find. What is not borrowed from the request is left in `rare`: it is large, and to move it
    /// takes longer than all the rest.
    #[inline]
    fn identify<'h>(&self, head: &'h Head<'_>, rare: &mut Option<Identity<'h>>) -> Found<'h> {
        for source in &self.sources {
            let found = self.hook(|| match source.identify(head) {
                None => Found::Nobody,
                Some(identity) => match identity.borrowed() {
                    Some(name) => Found::Borrowed(name, identity.provenance(), identity.source()),
                    None => {
                        *rare = Some(identity);
                        Found::Rare
                    }
                },
            });
            match found {
                Some(Found::Nobody) => {}
                Some(found) => return found,
                // A source that panics is broken, not silent: no weaker one is asked.
                None => {
                    *rare = Some(Identity::unknown());
                    return Found::Rare;
                }
            }
        }
        Found::Nobody
    }

    /// Calls code of the user's. A panic in it is said once, and the request goes on without an answer: an
    /// identity that fails never fails the request.
    #[inline]
    fn hook<T>(&self, f: impl FnOnce() -> T) -> Option<T> {
        catch_unwind(AssertUnwindSafe(f))
            .inspect_err(|_| {
                if !self.hook_panicked.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        "callerid: a closure that identifies callers, names routes, tells costs or answers refusals \
                         panicked; such requests go on without its answer (said once)"
                    );
                }
            })
            .ok()
    }

    /// Whom a request is from, and how sure that is, without counting it.
    #[cfg(feature = "dashboard")]
    pub(crate) fn caller_of<B>(
        &self,
        request: &Request<B>,
        now: Timestamp,
    ) -> Option<(String, Provenance)> {
        let roster = self.registry.roster();
        let head = Head::new(request, &roster, now);
        let mut rare = None;
        let found = self.identify(&head, &mut rare);
        let rare = rare.filter(Identity::is_named);
        let (name, provenance) = match (&found, &rare) {
            (Found::Borrowed(name, provenance, _), _) => (*name, *provenance),
            (Found::Rare, Some(identity)) => (identity.name(), identity.provenance()),
            _ => return None,
        };
        Some((self.registry.counted_as(name, provenance), provenance))
    }

    /// The address of a request's peer, if the listener left it.
    pub(crate) fn peer(&self, extensions: &http::Extensions) -> Option<IpAddr> {
        let peer = self.peer.as_ref()?;
        self.hook(|| peer(extensions)).flatten()
    }

    /// What a request without identity looks like: its peer, its agent, and the name that a weaker source would
    /// have given it.
    #[cold]
    fn count_face(&self, head: &Head<'_>) {
        let agent = head
            .headers()
            .get(header::USER_AGENT)
            .and_then(|agent| agent.to_str().ok());
        let peer = self.peer(head.extensions());
        let claimed = self
            .sources
            .iter()
            .filter_map(|source| self.hook(|| source.identify(head)).flatten());
        let claimed = claimed.into_iter().find(Identity::is_named);
        self.registry.faces.count(Face {
            peer,
            agent: agent.map(crate::record::sample::short),
            claimed: claimed.as_ref().map(Identity::name),
        });
    }
}

/// What a source has found.
enum Found<'h> {
    Nobody,
    Borrowed(&'h str, Provenance, Source),
    Rare,
}

#[inline]
fn who(name: &str, provenance: Provenance, source: Source) -> Who<'_> {
    Who {
        trust: match provenance {
            Provenance::Verified => Trust::Verified,
            _ => Trust::Weaker,
        },
        name,
        provenance,
        source,
    }
}

#[inline]
fn form(head: &Head<'_>, grpc: bool) -> Form {
    Form::new(head.method(), head.version(), head.headers(), grpc)
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}
