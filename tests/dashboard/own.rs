//! What a caller sees of itself, and that it sees nobody else.

use std::time::Duration;

use callerid::dashboard::{Access, Grant};
use callerid::events::{Change, Pin};
use callerid::{Account, ErrorDetail, Policy, Quota};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::{Layer, ServiceExt};

use super::visit::{Answer, NOW, Page, request, table, with};

async fn me(
    page: &Page,
    header: &'static str,
    caller: &str,
    more: &[(&'static str, &str)],
) -> Answer {
    let ask = with(request("GET", "/me", Some("10.1.1.1")), &[(header, caller)]);
    page.ask(with(ask, more)).await
}

#[tokio::test]
async fn a_caller_sees_its_own_usage_and_it_costs_nothing() {
    let table = table(|builder| builder.quota(Quota::per_second(5).burst(20)));
    table.send("x-client-id", "checkout", 422, 12).await;
    table.send("x-client-id", "search", 200, 3).await;
    table.callers.deployed("checkout", "v42");
    table.callers.deployed("search", "v7");
    let page = table.page(Access::tokens([]).self_service());
    for _ in 0..3 {
        let own = me(&page, "x-client-id", "checkout", &[]).await.json();
        assert_eq!(own["caller"], "checkout");
        assert_eq!(own["counts"]["by_class"]["validation"], 12);
        assert_eq!(own["limits"]["left"], 8);
        assert_eq!(own["limits"]["quota"], 5.0);
        assert_eq!(own["pins"].as_array().unwrap().len(), 1);
        assert!(!own.to_string().contains("search"), "{own}");
    }
    let snapshot = table.callers.snapshot();
    assert_eq!(snapshot.caller("checkout").unwrap().counts.started, 12);
    // Self-service is not reading.
    let overview = with(
        request("GET", "/v1/overview", Some("10.1.1.1")),
        &[("x-client-id", "checkout")],
    );
    assert_eq!(page.ask(overview).await.status, 401);
}

#[tokio::test]
async fn nothing_but_the_request_itself_names_the_caller() {
    let table = table(|builder| builder.caller(Account::new("checkout")));
    table.send("x-client-id", "checkout", 200, 5).await;
    table.send("x-client-id", "search", 200, 1).await;
    let page = table.page(Access::tokens([]).self_service());
    for path in [
        "/me?caller=checkout",
        "/me?name=checkout",
        "/me?me=checkout",
    ] {
        let ask = with(request("GET", path, None), &[("x-client-id", "search")]);
        assert_eq!(page.ask(ask).await.json()["caller"], "search", "{path}");
    }
    assert_eq!(
        page.ask(with(
            request("GET", "/me/checkout", None),
            &[("x-client-id", "search")]
        ))
        .await
        .status,
        404
    );
    // A claim of the name, no name, and no permission.
    let claim = me(&page, "x-claimed-id", "checkout", &[]).await;
    assert_eq!(claim.status, 403);
    assert!(claim.problem().contains("not verified"));
    assert_eq!(page.ask(request("GET", "/me", None)).await.status, 403);
    let closed = table.page(Access::from_fn(|_| Grant::nothing().read()));
    assert_eq!(
        me(&closed, "x-client-id", "checkout", &[]).await.status,
        403
    );
    // Where claims may see themselves, a claim still does not see the one that is proven.
    let claims = table.page(Access::from_fn(|_| Grant::nothing().self_service_claimed()));
    let claim = me(&claims, "x-claimed-id", "checkout", &[]).await.json();
    assert_eq!(
        (&claim["caller"], &claim["counts"]),
        (&"claimed:checkout".into(), &Value::Null)
    );
    let twin = me(&claims, "x-claimed-id", "search", &[]).await.json();
    assert_eq!(twin["counts"], Value::Null);
}

#[tokio::test]
async fn a_caller_that_is_new_sees_that_nothing_is_there() {
    let page = table(|builder| builder).page(Access::tokens([]).self_service());
    let own = me(&page, "x-client-id", "newcomer", &[]).await;
    assert_eq!((own.status, &own.json()["counts"]), (200, &Value::Null));
}

#[tokio::test]
async fn a_browser_gets_a_page_in_which_names_are_text() {
    let table = table(|builder| builder.service("prices"));
    let name = "<img/src=x/onerror=alert(1)>";
    table.send("x-client-id", name, 500, 2).await;
    let post = serde_json::from_value(serde_json::json!({"name": "<b>slow", "eta": NOW + 60}));
    table.callers.post_incident(post.unwrap()).unwrap();
    let page = table.page(Access::tokens([]).self_service());
    let own = me(&page, "x-client-id", name, &[("accept", "text/html,*/*")]).await;
    assert!(
        own.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    assert!(
        !own.body.contains("<img") && !own.body.contains("<b>slow"),
        "{}",
        own.body
    );
    assert!(own.body.contains("server_error") && own.body.contains("2025-10-09T08:54:20Z"));
    let style = with(request("GET", "/style.css", Some("10.1.1.1")), &[]);
    assert_eq!(page.ask(style).await.status, 200);
}

#[tokio::test]
async fn the_page_tells_all_that_the_json_tells() {
    let limits = |builder: callerid::Builder| {
        let limits = Policy::new().max_in_flight(7);
        let quota = Quota::per_second(5).burst(20);
        builder.default_policy(limits.quota(quota))
    };
    let table = table(limits);
    let inner = tower::service_fn(|_: http::Request<Full<bytes::Bytes>>| async {
        let mut response = http::Response::new(Full::<bytes::Bytes>::default());
        *response.status_mut() = http::StatusCode::UNPROCESSABLE_ENTITY;
        let detail = ErrorDetail::new("missing").field("sku<b>");
        response.extensions_mut().insert(detail);
        Ok::<_, std::convert::Infallible>(response)
    });
    let service = table.callers.layer().layer(inner);
    for n in 0..24 {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let headers = [("x-client-id", "checkout"), ("traceparent", trace)];
        let ask = with(request("GET", "/", None), &headers);
        let answer = service.clone().oneshot(ask).await.unwrap();
        answer.into_body().collect().await.unwrap();
        if n == 0 {
            table.pass(1); // its series begins
        }
    }
    let on = Pin::new(Change::Flag).caller("checkout").text("<i>basket");
    table.callers.pin(on.on(true));
    table.callers.deployed("checkout", "v42");
    table.callers.deployed("search", "v7");
    let day = Duration::from_secs(86_400);
    table.callers.block("checkout", day);
    table.pass(2);
    let page = table.page(Access::tokens([]).self_service());

    let own = me(&page, "x-client-id", "checkout", &[]).await.json();
    assert_eq!(own["errors"][0]["field"], "sku<b>");
    assert_eq!(own["counts"]["refused"]["quota"], 3);
    assert_eq!(own["limits"]["left_in_flight"], 7);
    assert_eq!(own["routes"][0]["by_class"]["validation"], 21);
    assert_eq!(own["pins"].as_array().unwrap().len(), 2);

    let html = me(&page, "x-client-id", "checkout", &[("accept", "text/html")])
        .await
        .body;
    for said in [
        "<td>validation</td><td class=\"number\">20</td><td class=\"number\">100 %</td><td class=\"number\">21</td>",
        "<td>validation</td><td>missing</td><td>sku&lt;b&gt;</td><td class=\"number\">21</td>",
        "<td>quota</td><td class=\"number\">3</td>",
        "<td>unmatched</td><td class=\"number\">21</td><td>validation 21</td>",
        "<td>422</td><td>validation: missing</td><td>4bf92f3577b34da6a3ce929d0e0e4736</td>",
        "<td>deploy v42</td>",
        "<td>flag &lt;i&gt;basket on</td>",
        "<dd>5 requests/s, 20 at once, of which 10 are left</dd>",
        "<dd>0 of at most 7</dd>",
        "everything is refused, until <time",
    ] {
        assert!(html.contains(said), "{said}: {html}");
    }
    assert!(!html.contains("v7"), "{html}");
    // Who has sent nothing sees what awaits it.
    let own = me(&page, "x-client-id", "newcomer", &[]).await.json();
    assert_eq!(own["limits"]["quota"], 5.0);
}

#[tokio::test]
async fn who_asks_too_often_is_told_to_wait() {
    let table = table(|builder| builder);
    let page = table.page(Access::tokens([]).self_service());
    let mut last = None;
    for _ in 0..20 {
        last = Some(me(&page, "x-client-id", "checkout", &[]).await);
    }
    let last = last.unwrap();
    assert_eq!(
        (last.status, &last.headers["retry-after"]),
        (429, &"1".parse().unwrap())
    );
    table.pass(1);
    assert_eq!(me(&page, "x-client-id", "checkout", &[]).await.status, 200);
}
