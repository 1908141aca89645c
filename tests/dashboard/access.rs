//! Who gets what: the safe default, tokens, and what neither forwarding nor foreign pages can have.

use callerid::dashboard::{Access, Grant, Token};

use super::visit::{request, table, with};

/// `printf %s look | sha256sum`, and of `act`.
pub(crate) const LOOK: &str = "3c01eba119e00d79c82b6f65d70bc5f1044d568618bf41377e6d1432023fc2b8";
pub(crate) const ACT: &str = "f83f07be16e270186d35b876916c461995ebc3af5b1798f898c33285a1847dbc";

pub(crate) fn tokens() -> Access {
    Access::tokens([
        Token::reader(LOOK).unwrap(),
        Token::operator("alice", ACT).unwrap(),
    ])
}

const DATA: [&str; 5] = [
    "/",
    "/top.txt",
    "/v1/you",
    "/v1/overview",
    "/v1/caller?name=__other__",
];

#[tokio::test]
async fn by_default_only_this_machine_is_answered() {
    let table = table(|builder| builder);
    let page = table.page(Access::default());
    for path in DATA {
        assert_eq!(page.get(path).await.status, 200, "{path}");
        for peer in [None, Some("10.1.2.3"), Some("2001:db8::7")] {
            let answer = page.ask(request("GET", path, peer)).await;
            assert_eq!(answer.status, 403, "{path} {peer:?}");
            if peer.is_none() {
                let said = answer.problem();
                assert!(
                    said.contains("into_make_service_with_connect_info"),
                    "{said}"
                );
            }
        }
        for header in [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-real-ip",
            "x-envoy-external-address",
            "via",
            "cf-connecting-ip",
            "true-client-ip",
            "fly-client-ip",
            "fastly-client-ip",
            "x-client-ip",
            "x-cluster-client-ip",
        ] {
            let forwarded = request("GET", path, Some("127.0.0.1"));
            let forwarded = with(forwarded, &[(header, "127.0.0.1")]);
            assert_eq!(page.ask(forwarded).await.status, 403, "{path} {header}");
        }
        // A page elsewhere whose name was made to mean this machine.
        let rebound = request("GET", path, Some("127.0.0.1"));
        let rebound = with(rebound, &[("host", "evil.example:3000")]);
        assert_eq!(page.ask(rebound).await.status, 403, "{path}");
        let mut two = request("GET", path, Some("127.0.0.1"));
        let second = "prices.example".parse().unwrap();
        two.headers_mut().append("host", second);
        assert_eq!(page.ask(two).await.status, 403, "{path}");
        // As nginx asks unless told otherwise.
        let mut old = request("GET", path, Some("127.0.0.1"));
        *old.version_mut() = http::Version::HTTP_10;
        assert_eq!(page.ask(old).await.status, 403, "{path}");
    }
    for (method, path) in [
        ("GET", "/main.js"),
        ("GET", "/status"),
        ("GET", "/me"),
        ("GET", "/no-such-thing"),
        ("PUT", "/"),
        ("GET", "/v1/do/clamp"),
        ("POST", "/v1/do/clamp"),
    ] {
        let asked = page.ask(request(method, path, Some("10.1.2.3"))).await;
        assert_eq!(asked.status, 403, "{method} {path}");
    }
}

#[tokio::test]
async fn with_tokens_the_page_is_empty_and_the_data_needs_one() {
    let table = table(|builder| builder);
    table.send("x-client-id", "secret-team", 200, 1).await;
    let page = table.page(tokens());
    // Also from this machine: a token is a token.
    let empty = page.get("/").await;
    assert_eq!(empty.status, 200);
    assert!(!empty.body.contains("secret-team"));
    assert_eq!(page.get("/main.js").await.status, 200);
    for path in &DATA[1..] {
        let bare = page.get(path).await;
        assert_eq!(bare.status, 401, "{path}");
        assert!(
            bare.headers["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Bearer")
        );
        for wrong in ["Bearer lookk", "Bearer ", "Basic look", "look"] {
            let wrong = with(request("GET", path, None), &[("authorization", wrong)]);
            let status = page.ask(wrong).await.status;
            assert!([401, 403].contains(&status), "{path}: {status}");
        }
        for right in ["Bearer look", "bearer act"] {
            let right = with(request("GET", path, None), &[("authorization", right)]);
            assert_eq!(page.ask(right).await.status, 200, "{path}");
        }
    }
    let you = |token: &'static str| {
        let request = request("GET", "/v1/you", None);
        page.ask(with(request, &[("authorization", token)]))
    };
    assert_eq!(you("Bearer look").await.json()["operate"], false);
    assert_eq!(you("Bearer act").await.json()["author"], "alice");
}

#[tokio::test]
async fn a_hook_of_ones_own_decides() {
    #[derive(Clone)]
    struct Employee(&'static str);
    let table = table(|builder| builder);
    let page = table.page(Access::from_fn(|ask| {
        match ask.extensions().get::<Employee>() {
            Some(Employee(name)) => Grant::nothing().read().operate(*name),
            None => Grant::nothing(),
        }
    }));
    assert_eq!(page.get("/").await.status, 403);
    let mut known = request("GET", "/v1/you", None);
    known.extensions_mut().insert(Employee("bob"));
    assert_eq!(page.ask(known).await.json()["author"], "bob");
}

#[tokio::test]
async fn who_guesses_tokens_is_slowed_down_and_locks_nobody_out() {
    let table = table(|builder| builder);
    let page = table.page(tokens().self_service());
    let ask = |path: &'static str, token: &'static str| {
        let asked = with(
            request("GET", path, Some("10.1.2.3")),
            &[("authorization", token)],
        );
        page.ask(asked)
    };
    for n in 0..20 {
        assert_eq!(ask("/v1/overview", "Bearer wrong").await.status, 403, "{n}");
    }
    for path in ["/v1/overview", "/v1/you", "/", "/top.txt"] {
        let slowed = ask(path, "Bearer wrong").await;
        assert_eq!(slowed.status, 429, "{path}");
        assert_eq!(slowed.headers["retry-after"], "1");
        assert!(slowed.problem().contains("too often"));
    }
    // A right token is not held up, nor a page without one, nor a caller with a token of the service's.
    for _ in 0..50 {
        assert_eq!(ask("/v1/overview", "Bearer look").await.status, 200);
    }
    assert_eq!(page.get("/").await.status, 200);
    assert_eq!(page.get("/v1/overview").await.status, 401);
    let own = with(
        request("GET", "/me", None),
        &[
            ("authorization", "Bearer its-own"),
            ("x-client-id", "checkout"),
        ],
    );
    assert_eq!(page.ask(own).await.status, 200);
    table.pass(3);
    let later = ask("/v1/overview", "Bearer wrong").await;
    assert_eq!(later.status, 403, "a second has passed for each");
}
