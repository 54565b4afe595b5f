//! Catalogue files that fit together, and those that do not.

use super::*;

const FILE: &str = r#"
    product = { slug = "p", name = "P", summary = "P.", currency = "usd" }
    upstreams = [{ slug = "u", url = "http://127.0.0.1:1" }]
    meters = [{ slug = "calls", name = "Calls", unit = "call" }]
    plans = []
"#;

fn check(routes: &str) -> Result<Vec<PlanTerms>, String> {
    let file: CatalogueFile = toml::from_str(&format!("{FILE}\n{routes}")).unwrap();
    file.check().map_err(|e| e.to_string())
}

fn route(slug: &str, rest: &str) -> String {
    format!("[[routes]]\nslug = \"{slug}\"\nupstream = \"u\"\nmeter = \"calls\"\n{rest}\n")
}

#[test]
fn credentials_are_checked_against_the_rest_of_the_file() {
    let plan = |flat: &str| {
        format!(
            "{}\n[[plans]]\nslug = \"open\"\nname = \"Open\"\ntagline = \"\"\nrate_limit = {{ per_second = 1, burst = 1 }}\n\
             month = {{ flat = \"{flat}\", meters = [] }}\n",
            FILE.replace("plans = []", "")
        )
    };
    let check = |plans: &str, issuers: &str, auth: &str| {
        let route = route("a", &format!("path = \"/a\"\npolicy = {{ auth = {auth} }}"));
        let file: CatalogueFile = toml::from_str(&format!("{plans}\n{route}\n{issuers}")).unwrap();
        file.check().map(drop).map_err(|e| e.to_string())
    };
    let issuer = "[[issuers]]\nslug = \"login\"\nissuer = \"https://login.example\"\naudiences = [\"api\"]\n\
                  algorithms = [\"ES256\"]\njwks_url = \"https://login.example/keys\"\n";
    let anonymous = "{ accept = [\"anonymous\"], anonymous_plan = \"open\" }";
    assert_eq!(check(&plan("0"), "", anonymous), Ok(()));
    let told = check(&plan("1"), "", anonymous).unwrap_err();
    assert!(
        told.starts_with("routes.a.policy.auth.anonymous_plan: open costs"),
        "{told}"
    );
    let told = check(&plan("0"), "", &anonymous.replace("open", "pro")).unwrap_err();
    assert!(
        told.starts_with("routes.a.policy.auth.anonymous_plan: \"pro\" is none of open"),
        "{told}"
    );
    let told = check(&plan("0"), "", "{ accept = [\"jwt\"] }").unwrap_err();
    assert!(told.starts_with("routes.a.policy.auth.accept"), "{told}");
    assert_eq!(check(&plan("0"), issuer, "{ accept = [\"jwt\"] }"), Ok(()));
    let twins = format!("{issuer}{}", issuer.replace("\"login\"", "\"other\""));
    assert!(
        check(&plan("0"), &twins, "{}")
            .unwrap_err()
            .starts_with("issuers.other.issuer")
    );
    let wrong = issuer.replace("[\"api\"]", "[]");
    assert!(
        check(&plan("0"), &wrong, "{}")
            .unwrap_err()
            .starts_with("issuers.login.audiences")
    );
}

/// The flat price in minor units of a plan in a currency, or what is wrong with it.
fn priced(currency: &str, flat: &str, overage: &str) -> Result<i64, String> {
    let file = FILE.replace("usd", currency).replace("plans = []", "");
    let file: CatalogueFile = toml::from_str(&format!(
        "{file}\nroutes = []\n[[plans]]\nslug = \"a\"\nname = \"A\"\ntagline = \"\"\nrate_limit = {{ per_second = 1, burst = 1 }}\n\
         month = {{ flat = \"{flat}\", meters = [{{ meter = \"calls\", included = 10{overage} }}] }}\n"
    ))
    .unwrap();
    let plans = file.check().map_err(|e| e.to_string())?;
    Ok(plans[0].offers[0].flat.minor)
}

#[test]
fn prices_are_what_stripe_can_charge() {
    for (currency, flat, minor) in [
        ("usd", "29.01", 2_901),
        ("jpy", "501", 501),
        // Stripe counts these in hundredths, and charges whole ones.
        ("ugx", "5000", 500_000),
        ("isk", "500.00", 50_000),
        // And these in thousandths, and charges hundredths.
        ("kwd", "1.250", 1_250),
    ] {
        assert_eq!(priced(currency, flat, ""), Ok(minor), "{flat} {currency}");
    }
    for (currency, flat, words) in [
        (
            "ugx",
            "5000.50",
            "5000.50 ugx cannot be charged: Stripe takes whole ugx, such as 5000",
        ),
        (
            "isk",
            "499.99",
            "499.99 isk cannot be charged: Stripe takes whole isk, such as 499",
        ),
        (
            "kwd",
            "1.255",
            "1.255 kwd cannot be charged: Stripe takes two decimals, such as 1.25",
        ),
    ] {
        assert_eq!(priced(currency, flat, ""), Err(format!("plans.a.month.flat: {words}")));
    }
    let overage = ", overage = { model = \"graduated\", tiers = [{ unit = \"1\" }] }";
    assert_eq!(priced("jpy", "501", overage), Ok(501));
    for currency in ["ugx", "isk", "bhd", "jod", "kwd", "omr", "tnd"] {
        let refused = priced(currency, "500", overage).unwrap_err();
        let words = format!("plans.a.month.meters.calls.overage: usage cannot be priced in {currency} yet");
        assert!(refused.starts_with(&words), "{refused}");
    }
}

#[test]
fn two_routes_for_the_same_requests_need_something_to_choose_by() {
    let first = route("first", "path = \"/v1/{id}\"");
    for (second, good) in [
        ("path = \"/v1/{code}\"", false),
        ("path = \"/v1/{code}\"\npolicy = { priority = 1 }", true),
        (
            "path = \"/v1/{code}\"\npolicy = { match_headers = { x-beta = \"*\" } }",
            true,
        ),
        ("path = \"/v1/{code}\"\npolicy = { hosts = [\"a.example\"] }", true),
        ("path = \"/v1/{code}\"\nmethods = [\"POST\"]", true),
        ("path = \"/v1/{code}\"\nmethods = [\"PROPFIND\", \"OPTIONS\"]", true),
        ("path = \"/v1/{code}\"\nmethods = [\"HEAD\"]", false),
        (
            "path = \"/v1/{code}\"\nmethods = [\"HEAD\"]\npolicy = { priority = 1 }",
            true,
        ),
        ("path = \"/v1/special\"", true),
    ] {
        let checked = check(&format!("{first}{}", route("second", second)));
        assert_eq!(checked.is_ok(), good, "{second}: {checked:?}");
    }
}

#[test]
fn a_method_that_cannot_be_sold_is_named_with_the_reason() {
    for (method, told) in [
        ("CONNECT", "CONNECT cannot be sold: it asks for a tunnel"),
        ("TRACE", "TRACE cannot be sold: its answer is the request"),
        ("propfind", "write it in capitals, \"PROPFIND\""),
        ("*", "is no method"),
    ] {
        let text = format!(
            "{FILE}{}",
            route("first", &format!("path = \"/a\"\nmethods = [\"GET\", {method:?}]"))
        );
        let refused = toml::from_str::<CatalogueFile>(&text).unwrap_err().to_string();
        assert!(refused.contains(told), "{method}: {refused}");
    }
    let all: Vec<String> = (0..40).map(|n| format!("\"M{n}\"")).collect();
    let many = |count: usize| {
        let methods = all[..count].join(", ");
        check(&route("first", &format!("path = \"/a\"\nmethods = [{methods}]")))
    };
    assert!(many(32).is_ok() && many(33).is_err());
}

#[test]
fn limits_name_routes_that_exist_and_have_names_of_their_own() {
    let routes = route(
        "first",
        "path = \"/a\"\npolicy = { limits = [{ name = \"all\", by = [\"route\"], requests = 9, per = \"second\" }] }",
    );
    let plan = |limits: &str| {
        let plan = format!(
            "plans = [{{ slug = \"free\", name = \"F\", tagline = \"T\", rate_limit = {{ per_second = 1, burst = 1 }}, \
             month = {{ flat = \"0\", meters = [] }}, limits = [{limits}] }}]"
        );
        let file = FILE.replace("plans = []", &plan);
        let file: CatalogueFile = toml::from_str(&format!("{file}\n{routes}")).unwrap();
        file.check().map_err(|e| e.to_string())
    };
    let reads = "{ name = \"reads\", methods = [\"GET\"], requests = 500, per = \"minute\" }";
    let writes = "{ name = \"writes\", methods = [\"POST\"], routes = [\"first\"], requests = 100, per = \"minute\" }";
    let terms = plan(&format!("{reads}, {writes}")).unwrap();
    assert_eq!((terms[0].limits.len(), terms[0].limits[1].burst()), (2, 100));
    for (limits, told) in [
        (
            reads.replace("reads", "all"),
            "plans.free.limits.all: the route first has",
        ),
        (
            writes.replace("first", "second"),
            "plans.free.limits.writes.routes: \"second\" is none of first",
        ),
        (format!("{reads}, {reads}"), "plans.free.limits: reads: is there twice"),
        (
            format!("{reads}], concurrency = 0, features = ["),
            "plans.free.concurrency: must be at least 1",
        ),
        (
            format!("{reads}], priority = 10, features = ["),
            "plans.free.priority: must be 0",
        ),
    ] {
        let error = plan(&limits).unwrap_err();
        assert!(error.starts_with(told), "{error}");
    }
    let terms = plan(&format!("{reads}], concurrency = 20, priority = 9, features = [")).unwrap();
    assert_eq!((terms[0].concurrency, terms[0].priority), (Some(20), 9));
    let misplaced = routes.replace("by =", "routes = [\"first\"], by =");
    let error = check(&misplaced).unwrap_err();
    assert!(
        error.starts_with("routes.first.policy.limits: all: a route's limit"),
        "{error}"
    );
}

#[test]
fn what_is_wrong_in_a_policy_is_said_with_its_place() {
    for (policy, place) in [
        (
            "{ match_headers = { X-Beta = \"1\" } }",
            "routes.first.policy.match_headers",
        ),
        (
            "{ match_headers = { x-beta = \"\" } }",
            "routes.first.policy.match_headers",
        ),
    ] {
        let told = check(&route("first", &format!("path = \"/a\"\npolicy = {policy}"))).unwrap_err();
        assert!(told.starts_with(place), "{told}");
    }
    let shared = "path = \"/a\"\npolicy = { cache = { shared_by = \"plan\" } }";
    assert!(check(&route("first", shared)).is_ok());
    let file = FILE.replace("127.0.0.1:1\"", "127.0.0.1:1\", policy = { identity = \"jwt\" }");
    let file: CatalogueFile = toml::from_str(&format!("{file}\n{}", route("first", shared))).unwrap();
    let told = file.check().unwrap_err().to_string();
    assert!(told.starts_with("routes.first.policy.cache.shared_by"), "{told}");
    let bound = "[[upstreams]]\nslug = \"v\"\nurl = \"http://a\"\npolicy = { connect_timeout_ms = 0 }";
    let file = FILE.replace("upstreams = [{ slug = \"u\", url = \"http://127.0.0.1:1\" }]", "");
    let file: CatalogueFile = toml::from_str(&format!("{file}\nroutes = []\n{bound}")).unwrap();
    let told = file.check().unwrap_err().to_string();
    assert!(told.starts_with("upstreams.v.policy.connect_timeout_ms"), "{told}");
    for unknown in [
        "{ host = [\"a\"] }",
        "{ hosts = [\"A.example\"] }",
        "{ deny_addresses = [\"x\"] }",
    ] {
        let text = format!(
            "{FILE}\n{}",
            route("first", &format!("path = \"/a\"\npolicy = {unknown}"))
        );
        assert!(toml::from_str::<CatalogueFile>(&text).is_err(), "{unknown}");
    }
}
