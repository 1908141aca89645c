//! What every answer carries, and what the readable ones say.

use std::sync::Arc;

use callerid::dashboard::{Access, Grant};
use callerid::{Account, Mode, Quota};
use serde_json::Value;
use tower::ServiceExt;

use super::visit::{Page, request, table, with};

const HOSTILE: &str = "<img/src=x/onerror=alert(1)>";

#[tokio::test]
async fn every_answer_keeps_foreign_pages_and_scripts_out() {
    let table = table(|builder| builder);
    let page = table.page(Access::local());
    for path in [
        "/",
        "/v1/overview",
        "/main.js",
        "/top.txt",
        "/nothing",
        "/v1/you",
        "/v1/caller",
    ] {
        let answer = page.get(path).await;
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"));
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
        assert_eq!(
            answer.headers["x-content-type-options"], "nosniff",
            "{path}"
        );
        assert_eq!(answer.headers["referrer-policy"], "no-referrer", "{path}");
        assert!(!answer.headers.contains_key("set-cookie"), "{path}");
        let kept = answer.headers["cache-control"].to_str().unwrap();
        assert_eq!(
            kept,
            if path == "/main.js" {
                "no-cache"
            } else {
                "no-store"
            }
        );
    }
}

#[tokio::test]
async fn it_is_found_below_any_mount_and_its_links_are_relative() {
    let table = table(|builder| builder);
    // The router takes the mount away, hyper leaves it.
    let page = table.page(Access::local());
    for path in ["/v1/you", "/callerid/v1/you"] {
        assert_eq!(page.get(path).await.status, 200, "{path}");
    }
    assert_eq!(page.get("/calleridx/v1/you").await.status, 404);
    let elsewhere = Page(table.callers.dashboard().mount("ops/who"));
    assert_eq!(elsewhere.get("/ops/who/v1/you").await.status, 200);
    let moved = elsewhere.get("/ops/who").await;
    assert_eq!(
        (moved.status, &moved.headers["location"]),
        (308, &"./who/".parse().unwrap())
    );
    // Also below a router, which shows the page the same path with and without the slash.
    let app: axum::Router = axum::Router::new().nest_service("/callerid", page.0);
    for (path, status) in [
        ("/callerid", 308),
        ("/callerid/", 200),
        ("/callerid/style.css", 200),
    ] {
        let answer = app
            .clone()
            .oneshot(request("GET", path, Some("127.0.0.1")).map(axum::body::Body::new));
        assert_eq!(answer.await.unwrap().status(), status, "{path}");
    }
}

#[tokio::test]
async fn the_overview_has_callers_and_their_lines() {
    let account = Account::new("checkout")
        .owner("Payments")
        .contact("#payments-oncall");
    let table = table(|builder| builder.caller(account));
    table.pass(1);
    for _ in 0..10 {
        table.send("x-client-id", "checkout", 422, 9).await;
        table.send("x-client-id", "search", 200, 3).await;
        table.pass(1);
    }
    let page = table.page(Access::local());
    let overview = page.get("/v1/overview?span=2m").await.json();
    assert_eq!(overview["v"], 1);
    let first = &overview["callers"][0];
    assert_eq!(first["caller"], "checkout");
    assert_eq!(first["contact"], "#payments-oncall");
    assert_eq!(first["errors"]["validation"], 1.0);
    let chart = &overview["chart"];
    let last = |of: &Value| of["offered"].as_array().unwrap()[119].as_f64().unwrap();
    assert_eq!(chart["t"][119], super::visit::NOW + 10);
    assert_eq!(chart["lines"][0]["caller"], "checkout");
    assert_eq!(
        (
            last(&chart["lines"][0]),
            last(&chart["total"]),
            last(&chart["rest"])
        ),
        (9.0, 12.0, 0.0)
    );
    assert_eq!(page.get("/v1/overview?span=1y").await.status, 400);
}

#[tokio::test]
async fn more_callers_than_lines_are_drawn_as_one() {
    let table = table(|builder| builder);
    for _ in 0..2 {
        for n in 0..20 {
            let name = format!("team-{n}");
            table.send("x-client-id", &name, 200, n + 1).await;
        }
        table.pass(1);
    }
    let overview = table.page(Access::local()).get("/v1/overview").await.json();
    let chart = &overview["chart"];
    assert_eq!(chart["lines"].as_array().unwrap().len(), 12);
    // 1 + 2 + ... + 8
    assert_eq!(chart["rest"]["offered"][119], 36.0);
    assert_eq!(overview["callers"].as_array().unwrap().len(), 20);
}

#[tokio::test]
async fn one_caller_is_known_in_all_detail() {
    let table = table(|builder| builder.quota(Quota::per_second(5).burst(7)));
    table.pass(1);
    table.send("x-client-id", "checkout", 422, 10).await;
    table.pass(1);
    let page = table.page(Access::local());
    let caller = page.get("/v1/caller?name=checkout").await.json();
    assert_eq!(caller["counts"]["by_class"]["validation"], 7);
    assert_eq!(caller["counts"]["refused"]["quota"], 3);
    assert_eq!(caller["policy"]["burst"], 7);
    assert_eq!(
        (&caller["acts"], &caller["ceiling"]),
        (&"enforce".into(), &Value::Null)
    );
    table.callers.set_mode(Mode::Shadow);
    let caller = page.get("/v1/caller?name=checkout").await.json();
    assert_eq!(
        (&caller["policy"]["mode"], &caller["acts"]),
        (&"enforce".into(), &"shadow".into())
    );
    assert_eq!(caller["failures"][0]["status"], 422);
    assert_eq!(caller["histograms"][0][0], "validation");
    assert!(caller["unknown"].is_null());
    // In a terminal too, under its heading.
    let top = page.get("/top.txt").await.body;
    let cells = |line: &str| -> Vec<String> {
        let cells = line.trim_start_matches("# ").split("  ").map(str::trim);
        cells
            .filter(|cell| !cell.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let lines: Vec<_> = top.lines().map(cells).collect();
    let refused = lines[1].iter().position(|head| head == "refused").unwrap();
    assert_eq!(
        (&*lines[2][0], &*lines[2][refused]),
        ("checkout", "quota=3"),
        "{top}"
    );
    assert!(page.get("/v1/caller?name=__unknown__").await.json()["unknown"].is_object());
    assert_eq!(page.get("/v1/caller?name=nobody").await.status, 404);
    assert_eq!(page.get("/v1/caller").await.status, 400);
}

#[tokio::test]
async fn a_hostile_name_is_text_wherever_it_is_shown() {
    let table = table(|builder| builder);
    table.send("x-client-id", HOSTILE, 200, 1).await;
    let page = table.page(Access::local());
    let shown = page.get("/").await;
    assert!(!shown.body.contains("<img"), "{}", shown.body);
    assert!(shown.body.contains("&lt;img/src=x/onerror=alert(1)&gt;"));
    let overview = page.get("/v1/overview").await;
    assert_eq!(overview.headers["content-type"], "application/json");
    assert_eq!(overview.json()["callers"][0]["caller"], HOSTILE);
    let name = HOSTILE.replace('<', "%3C").replace('>', "%3E");
    let one = page.get(&format!("/v1/caller?name={name}")).await;
    assert_eq!(one.json()["name"], HOSTILE);
}

#[tokio::test]
async fn viewers_of_one_second_share_one_look() {
    let table = table(|builder| builder);
    let page = Arc::new(table.page(Access::local()));
    let first = page.get("/v1/overview").await.body;
    table.send("x-client-id", "late", 200, 1).await;
    assert_eq!(
        page.get("/v1/overview").await.body,
        first,
        "within the second"
    );
    table.pass(1);
    assert!(page.get("/v1/overview").await.body.contains("late"));
}

#[tokio::test]
async fn events_are_told_from_where_the_reader_was() {
    let table = table(|builder| builder.service("prices").instance("a1"));
    let page = table.page(Access::local());
    let first = page.get("/v1/events").await.json();
    assert_eq!(first["events"][0]["kind"], "ours");
    table.callers.deployed("checkout", "v42");
    let after = first["next"].as_str().unwrap();
    let path = format!("/v1/events?after={}", after.replace('/', "%2F"));
    let second = page.get(&path).await.json();
    assert_eq!(second["events"].as_array().unwrap().len(), 1);
    assert_eq!(second["events"][0]["version"], "v42");
    let path = format!("/v1/events?after={}", second["next"].as_str().unwrap());
    assert_eq!(
        page.get(&path).await.json()["events"],
        serde_json::json!([])
    );
    assert_eq!(page.get("/v1/report?id=none").await.status, 404);
}

#[tokio::test]
async fn only_reading_methods_read() {
    let page = table(|builder| builder).page(Access::local_operator());
    for method in ["POST", "PUT", "DELETE"] {
        let answer = page
            .ask(request(method, "/v1/overview", Some("127.0.0.1")))
            .await;
        assert_eq!(
            (answer.status, &answer.headers["allow"]),
            (405, &"GET, HEAD".parse().unwrap())
        );
    }
    let known = page.get("/style.css").await.headers["etag"].clone();
    let again = request("GET", "/style.css", Some("127.0.0.1"));
    let again = with(again, &[("if-none-match", known.to_str().unwrap())]);
    assert_eq!(page.ask(again).await.status, 304);
}

#[tokio::test]
async fn the_page_links_to_what_shows_the_whole_fleet() {
    let table = table(|builder| builder);
    let link = async |url: &str, grant: Grant| {
        let access = Access::from_fn(move |_| grant.clone());
        let page = Page(table.callers.dashboard().access(access).fleet_view(url));
        page.get("/v1/you").await.json()["fleet_view"].clone()
    };
    let grafana = "https://grafana.example/d/callerid-api?var-job=prices";
    assert_eq!(link(grafana, Grant::nothing().read()).await, grafana);
    let own = Grant::nothing().self_service();
    assert_eq!(link(grafana, own).await, Value::Null);
    for no_link in [
        "javascript:alert(1)",
        "//grafana.example",
        "",
        "data:text/html,x",
    ] {
        assert_eq!(
            link(no_link, Grant::nothing().read()).await,
            Value::Null,
            "{no_link}"
        );
    }
}
