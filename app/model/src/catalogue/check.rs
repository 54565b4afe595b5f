//! Whether a catalogue file fits together.

use super::{
    CatalogueError, CatalogueFile, PRIORITY_MOST, PlanTerms, RouteFile, StatusSet, UpstreamFile, check_slug, known,
    slugs, wrong,
};
use crate::access::{Credential, METHODS_PER_ROUTE_MOST, Method};
use crate::policy::{
    HostPattern, IdentityForm, PolicyError, ServiceUrl, check_gates, check_in_flight, check_rate_rules, segments, shape,
};
use std::collections::HashMap;

impl CatalogueFile {
    /// Answers that several consumers share cannot depend on who calls.
    fn check_sharing(&self, place: &str, route: &RouteFile) -> Result<(), CatalogueError> {
        let shares = route.policy.cache.as_ref().is_some_and(|c| c.shared_by.is_shared());
        let told = |u: &UpstreamFile| u.slug == route.upstream && u.policy.identity == IdentityForm::Jwt;
        if shares && self.upstreams.iter().any(told) {
            let problem = "its upstream is told in a token who calls, which shared answers cannot depend on: use \
                           shared_by = \"consumer\", or an upstream without identity = \"jwt\"";
            return wrong(format!("{place}.policy.cache.shared_by"), problem);
        }
        Ok(())
    }

    /// Checks every rule that does not need a database and gives the terms of each plan, in the file's order.
    ///
    /// # Errors
    /// The first thing wrong, with its place in the file.
    pub fn check(&self) -> Result<Vec<PlanTerms>, CatalogueError> {
        check_slug("product.slug", &self.product.slug)?;
        let upstreams = slugs("upstreams", self.upstreams.iter().map(|u| &u.slug))?;
        let meters = slugs("meters", self.meters.iter().map(|m| &m.slug))?;
        let features = slugs("features", self.features.iter().map(|f| &f.slug))?;
        for f in &self.features {
            f.life().check(&format!("features.{}", f.slug))?;
        }
        slugs("routes", self.routes.iter().map(|r| &r.slug))?;
        slugs("plans", self.plans.iter().map(|p| &p.slug))?;
        for u in &self.upstreams {
            check_url(&u.slug, &u.url)?;
            check_policy(&format!("upstreams.{}", u.slug), u.policy.check())?;
        }
        for m in &self.meters {
            for s in &m.statuses {
                if StatusSet::bit_range(s).is_none() {
                    return wrong(
                        format!("meters.{}.statuses", m.slug),
                        format!("{s:?} is neither a class (2xx) nor a status (404)"),
                    );
                }
            }
        }
        for r in &self.routes {
            let place = format!("routes.{}", r.slug);
            known(&place, "upstream", &upstreams, &r.upstream)?;
            self.check_sharing(&place, r)?;
            known(&place, "meter", &meters, &r.meter)?;
            if let Some(f) = &r.feature {
                known(&place, "feature", &features, f)?;
            }
            check_path(&place, &r.path)?;
            let path = segments(&r.path).or_else(|e| wrong(format!("{place}.path"), e.to_string()))?;
            check_policy(&place, r.policy.check(&path))?;
            check_policy(&place, check_gates(&r.policy.gates, &r.methods, &features))?;
            if r.methods.is_empty() || r.weight > 1_000_000 {
                return wrong(place, "needs a method, and a weight of at most 1,000,000");
            }
            if r.methods.len() > METHODS_PER_ROUTE_MOST {
                return wrong(format!("{place}.methods"), format!("at most {METHODS_PER_ROUTE_MOST}"));
            }
        }
        check_overlaps(&self.routes)?;
        self.check_limits()?;
        let plans: Vec<PlanTerms> = self
            .plans
            .iter()
            .map(|p| p.check(self.product.currency, &meters, &features))
            .collect::<Result<_, _>>()?;
        self.check_anonymous_plans(&plans)?;
        self.check_issuers(&plans)?;
        Ok(plans)
    }

    /// An issuer is found by the claim `iss`, so no two may share it.
    fn check_issuers(&self, plans: &[PlanTerms]) -> Result<(), CatalogueError> {
        let sold: Vec<&str> = plans.iter().map(|p| p.slug.as_str()).collect();
        slugs("issuers", self.issuers.iter().map(|i| &i.slug))?;
        for (at, issuer) in self.issuers.iter().enumerate() {
            let place = format!("issuers.{}", issuer.slug);
            let checked = issuer.check();
            checked.or_else(|e| wrong(format!("{place}.{}", e.field), e.problem))?;
            for plan in &issuer.plans {
                known(&place, "plans", &sold, plan)?;
            }
            if let Some(twin) = self.issuers[..at].iter().find(|i| i.issuer == issuer.issuer) {
                return wrong(format!("{place}.issuer"), format!("is that of {} already", twin.slug));
            }
        }
        let needs = |r: &&RouteFile| r.policy.auth.accepts(Credential::Jwt);
        match self.routes.iter().find(needs) {
            Some(route) if self.issuers.is_empty() => wrong(
                format!("routes.{}.policy.auth.accept", route.slug),
                "takes jwt, but the file names no [[issuers]] whose tokens those would be",
            ),
            _ => Ok(()),
        }
    }

    /// Nobody can be billed for what callers without a credential do.
    fn check_anonymous_plans(&self, plans: &[PlanTerms]) -> Result<(), CatalogueError> {
        let slugs: Vec<&str> = plans.iter().map(|p| p.slug.as_str()).collect();
        for route in &self.routes {
            let Some(slug) = &route.policy.auth.anonymous_plan else {
                continue;
            };
            let place = format!("routes.{}.policy.auth", route.slug);
            known(&place, "anonymous_plan", &slugs, slug)?;
            if plans.iter().any(|p| p.slug == *slug && !p.is_free()) {
                let problem = format!("{slug} costs something: name a plan without a price and without overage");
                return wrong(format!("{place}.anonymous_plan"), problem);
            }
        }
        Ok(())
    }

    /// The limits of plans name routes that exist, and in no answer two limits have one name.
    fn check_limits(&self) -> Result<(), CatalogueError> {
        let routes: Vec<&str> = self.routes.iter().map(|r| r.slug.as_str()).collect();
        for plan in &self.plans {
            let place = format!("plans.{}", plan.slug);
            let bounds = check_rate_rules(&plan.limits).and(check_in_flight("concurrency", plan.concurrency));
            bounds.or_else(|e| wrong(format!("{place}.{}", e.field), e.problem))?;
            if plan.priority > PRIORITY_MOST {
                return wrong(
                    format!("{place}.priority"),
                    format!("must be 0 (served last) to {PRIORITY_MOST} (first)"),
                );
            }
            for rule in &plan.limits {
                for slug in &rule.routes {
                    known(&format!("{place}.limits.{}", rule.name), "routes", &routes, slug)?;
                }
                let twin = self
                    .routes
                    .iter()
                    .find(|r| r.policy.limits.iter().any(|l| l.name == rule.name));
                if let Some(route) = twin {
                    let problem = format!(
                        "the route {} has a limit of this name, too: answers could not tell them apart",
                        route.slug
                    );
                    return wrong(format!("{place}.limits.{}", rule.name), problem);
                }
            }
        }
        Ok(())
    }
}

fn check_policy(place: &str, checked: Result<(), PolicyError>) -> Result<(), CatalogueError> {
    checked.or_else(|e| wrong(format!("{place}.policy.{}", e.field), e.problem))
}

/// No request may have two routes with nothing to choose between them.
fn check_overlaps(routes: &[RouteFile]) -> Result<(), CatalogueError> {
    let mut seen: HashMap<(Option<&HostPattern>, String), Vec<&RouteFile>> = HashMap::new();
    for route in routes {
        let Ok(path) = segments(&route.path) else { continue };
        let hosts = route.policy.hosts.iter().map(Some);
        for host in hosts.chain(route.policy.hosts.is_empty().then_some(None)) {
            let others = seen.entry((host, shape(&path))).or_default();
            let twin = others.iter().find(|o| {
                let shares = |some: &[Method], others: &[Method]| some.iter().any(|m| m.is_among(others));
                (shares(&o.methods, &route.methods) || shares(&route.methods, &o.methods))
                    && o.policy.match_headers == route.policy.match_headers
                    && o.policy.priority == route.policy.priority
            });
            if let Some(twin) = twin {
                let problem = format!(
                    "takes the same requests as {}: give one of them a policy.priority",
                    twin.slug
                );
                return wrong(format!("routes.{}", route.slug), problem);
            }
            others.push(route);
        }
    }
    Ok(())
}

fn check_url(slug: &str, url: &str) -> Result<(), CatalogueError> {
    match url.parse::<ServiceUrl>() {
        Ok(_) => Ok(()),
        Err(error) => wrong(format!("upstreams.{slug}.url"), error.to_string()),
    }
}

fn check_path(place: &str, path: &str) -> Result<(), CatalogueError> {
    let good = path.starts_with('/')
        && path.len() <= 512
        && !path.contains("//")
        && path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%' | b'\\' | b';'))
        && path.split('/').all(|s| s != "." && s != "..");
    if good {
        Ok(())
    } else {
        wrong(
            format!("{place}.path"),
            format!("{path:?} must begin with / and be a plain path"),
        )
    }
}
