//! Routes made quick to ask, and the change from one set to the next.
//!
//! A request chooses its revision and is counted in flight under one read lock; new routes come in under the write
//! lock. So once `set_routes` has returned, every request that chose by the old routes is already counted, and
//! "in flight is 0" means drained, with no moment in between where a request is on its way and not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::counters::{Audience, Counters, Flight, RevisionStats};
use super::pool::Endpoint;
use super::routes::{MatchOn, MatchTest, Routes, RoutesError, StickyCookie, cookies};
use super::spread::Line;
use super::sticky::{self, Mint, Ticket, UserNumber};

type Endpoints = BTreeMap<(String, SocketAddr), Arc<Endpoint>>;

/// The routes in force.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) routes: Routes,
    targets: Vec<Target>,
    line: Line,
    rules: Vec<Rule>,
    sticky: Option<Sticky>,
    mirror: Option<(usize, usize)>,
    endpoints: Endpoints,
}

/// One revision and the ways to it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) stats: Arc<RevisionStats>,
    pub(super) endpoints: Arc<[Arc<Endpoint>]>,
}

#[derive(Debug)]
struct Rule {
    on: On,
    test: MatchTest,
    target: usize,
}

#[derive(Debug)]
enum On {
    Header(HeaderName),
    Cookie(String),
}

#[derive(Debug)]
struct Sticky {
    cookie: StickyCookie,
    tickets: Vec<Ticket>,
}

/// What a request was told.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) target: Target,
    pub(super) flight: Flight,
    pub(super) set_cookie: Option<HeaderValue>,
    /// Who gets a copy.
    pub(super) mirror: Option<Target>,
}

impl Table {
    /// Checked routes; endpoints that were there before keep their connections. The second value is what is not
    /// there any more, to be retired.
    pub(super) fn new(
        routes: Routes,
        before: Option<&Self>,
        counters: &Counters,
    ) -> Result<(Self, Vec<Arc<Endpoint>>), RoutesError> {
        routes.validate()?;
        let stats = counters.of(routes.split.iter().map(|backend| backend.revision.as_str()));
        let known = before.map(|table| &table.endpoints);
        let mut endpoints = Endpoints::new();
        let mut targets = Vec::with_capacity(routes.split.len());
        for backend in &routes.split {
            let stats = &stats[&backend.revision];
            // An address named twice would otherwise get two turns.
            let addresses: BTreeSet<_> = backend.endpoints.iter().collect();
            let of_target = addresses.into_iter().map(|addr| {
                let key = (backend.revision.clone(), *addr);
                let old = known.and_then(|known| known.get(&key)).map(Arc::clone);
                let endpoint = old.unwrap_or_else(|| Arc::new(Endpoint::new(*addr, stats.endpoint(*addr))));
                endpoints.insert(key, Arc::clone(&endpoint));
                endpoint
            });
            targets.push(Target {
                stats: Arc::clone(stats),
                endpoints: of_target.collect(),
            });
        }
        let place = |revision: &String| {
            let found = routes.split.iter().position(|backend| &backend.revision == revision);
            found.expect("validated: rules and mirror name revisions of the split")
        };
        let rules = routes.matches.iter().map(|rule| Rule {
            on: match &rule.on {
                MatchOn::Header(name) => On::Header(name.parse().expect("validated: a header's name")),
                MatchOn::Cookie(name) => On::Cookie(name.clone()),
            },
            test: rule.test.clone(),
            target: place(&rule.revision),
        });
        let sticky = routes.sticky.clone().map(|cookie| Sticky {
            cookie,
            tickets: routes
                .split
                .iter()
                .map(|backend| Ticket::new(&backend.revision, backend.weight))
                .collect(),
        });
        let table = Self {
            rules: rules.collect(),
            sticky,
            mirror: routes
                .mirror
                .as_ref()
                .map(|mirror| (place(&mirror.revision), usize::from(mirror.permille))),
            line: Line::new(routes.split.iter().map(|backend| backend.weight)),
            targets,
            endpoints,
            routes,
        };
        let gone = known
            .into_iter()
            .flatten()
            .filter(|(key, _)| !table.endpoints.contains_key(*key));
        let gone = gone.map(|(_, endpoint)| Arc::clone(endpoint)).collect();
        Ok((table, gone))
    }

    /// Whose request this is; `None` when nothing is there for it. Counts it in flight.
    pub(super) fn choose(&self, headers: &HeaderMap, counters: &Counters, mint: &Mint, at: Instant) -> Option<Choice> {
        let (index, set_cookie) = match self.matched(headers).or_else(|| self.home(headers)) {
            Some(index) => (index, None),
            None => {
                let index = self.line.owner(&counters.turn)?;
                (index, self.new_cookie(index, mint))
            }
        };
        let target = self.targets[index].clone();
        let flight = Flight::start(Arc::clone(&target.stats), Audience::User, at);
        let mirror = self
            .mirror
            .filter(|(to, permille)| *to != index && counters.mirror_turn.next_point() < *permille);
        let mirror = mirror.map(|(to, _)| self.targets[to].clone());
        Some(Choice {
            target,
            flight,
            set_cookie,
            mirror,
        })
    }

    /// Whether requests, users' or mirrored ones, can still get to this revision.
    pub(super) fn reaches(&self, revision: &str) -> bool {
        let routes = &self.routes;
        routes
            .split
            .iter()
            .any(|backend| backend.weight > 0 && backend.revision == revision)
            || routes.matches.iter().any(|rule| rule.revision == revision)
            || routes
                .mirror
                .iter()
                .any(|mirror| mirror.permille > 0 && mirror.revision == revision)
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    fn matched(&self, headers: &HeaderMap) -> Option<usize> {
        let fits = |rule: &&Rule| match &rule.on {
            On::Header(name) => headers
                .get_all(name)
                .iter()
                .any(|value| rule.test.fits(value.as_bytes())),
            On::Cookie(name) => cookies(headers, name).any(|value| rule.test.fits(value)),
        };
        self.rules.iter().find(fits).map(|rule| rule.target)
    }

    fn home(&self, headers: &HeaderMap) -> Option<usize> {
        let sticky = self.sticky.as_ref()?;
        let user = cookies(headers, &sticky.cookie.name).find_map(UserNumber::parse)?;
        sticky::home(&sticky.tickets, user)
    }

    fn new_cookie(&self, index: usize, mint: &Mint) -> Option<HeaderValue> {
        let Sticky { cookie, tickets } = self.sticky.as_ref()?;
        let user = mint.user_of(tickets, index)?;
        let (name, age) = (&cookie.name, cookie.ttl.as_secs());
        let line = format!("{name}={user}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax");
        Some(HeaderValue::from_str(&line).expect("validated: a cookie's name has no odd characters"))
    }
}
