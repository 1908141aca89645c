//! The page in a real browser, on the real demo: the outage as the on-call sees it, and what a page must never do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "deadlines of tests are in real time"
)]

#[path = "browser/driver.rs"]
mod driver;
mod programs;

use std::sync::atomic::{AtomicU16, Ordering};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::get;
use callerid::dashboard::{Access, Grant, Token};
use callerid::incidents::{Post, State};
use callerid::{Callers, Mode, identify};
use driver::{Browser, Driver, until};
use programs::{Demo, Running, call, demo};
use serde_json::Value;

const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";

fn assert_no_obstacles(browser: &Browser<'_>, state: &str) {
    let obstacles = browser.obstacles();
    assert!(obstacles.is_empty(), "{state}: {obstacles:#?}");
}

/// What a caller was let in of late, and what it sent, per second.
fn of_late(demo: &Demo, caller: &str) -> Option<(f64, f64)> {
    let overview: Value = serde_json::from_str(&demo.plain("/callerid/v1/overview").body).unwrap();
    let lines = overview["chart"]["lines"].as_array()?;
    let line = lines.iter().find(|line| line["caller"] == caller)?;
    let late = |field: &str| -> Option<f64> {
        let values = line[field].as_array()?;
        let late = values.iter().rev().take(4).filter_map(Value::as_f64);
        Some(late.sum::<f64>() / 4.0)
    };
    let offered = late("offered")?;
    Some((offered - late("refused")?, offered))
}

/// Waits until what the last size and colours ask for is drawn.
fn settle(browser: &Browser<'_>) {
    let before = browser.text("#live").unwrap_or_default();
    until("it is drawn anew", || {
        (browser.text("#live")? != before).then_some(())
    });
}

#[test]
fn the_outage_is_seen_named_and_stopped_and_others_are_told() {
    let folder = std::env::temp_dir().join(format!("callerid-browser-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let state = folder.join("state.json");
    let policies = folder.join("callerid.toml");
    std::fs::write(&policies, "[caller.search]\nquota = \"500/s\"\n").unwrap();
    let demo = Demo::ready(Running::start(
        demo()
            .args(["--listen", "127.0.0.1:0", "--state"])
            .arg(&state)
            .arg("--config")
            .arg(&policies),
    ));
    let page = format!("http://{}/callerid/", demo.address);
    let driver = Driver::start();
    let browser = driver.browser();
    browser.open(&page);
    browser.shows("#table", "search");

    // Who, whom to call, where, after which deploy; and whether it is we.
    browser.shows(".banner h2", "checkout");
    browser.shows(".banner .call", "Payments · #payments-oncall");
    for fact in [
        "requests/s",
        "validation",
        "POST /v1/orders",
        "4.2.0",
        "no change of ours since",
        "The others are suffering",
    ] {
        browser.shows(".banner dl", fact);
    }

    let overview: Value = serde_json::from_str(&demo.plain("/callerid/v1/overview").body).unwrap();
    let id = overview["episodes"][0]["id"]
        .as_str()
        .unwrap()
        .replace('/', "%2F");
    let report = demo.plain(&format!("/callerid/v1/report?id={id}"));
    assert!(
        report.status == 200 && report.body.contains("checkout"),
        "{report:?}"
    );

    // Into the post-mortem with one click; and where the browser lends no clipboard, it is there to be taken.
    let copies = "//article[contains(@class, 'banner')]//button[. = 'Copy the report']";
    browser.click(copies);
    browser.shows("#said", "Copied.");
    let copied = browser.clipboard();
    assert!(
        copied.starts_with("# Runaway of checkout") && copied.contains("#payments-oncall"),
        "{copied}"
    );
    browser.run(
        "Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })",
    );
    browser.click(copies);
    browser.shows("#dialog h2", "Report");
    let shown = browser.run(
        "const area = document.querySelector('#dialog textarea');
         return [area.value, area.value.slice(area.selectionStart, area.selectionEnd) === area.value]",
    );
    assert!(
        shown[0]
            .as_str()
            .unwrap()
            .starts_with("# Runaway of checkout"),
        "{shown}"
    );
    assert_eq!(shown[1], true, "all of it is selected");
    browser.screenshot("report", false);
    browser.click("//dialog//button[. = 'Close']");
    browser.run("delete navigator.clipboard");

    // The line stands out, and without the suspect nothing has risen.
    browser.shows("#legend .suspect", "checkout");
    let alarm = until("the line is drawn in the colour of alarm", || {
        let found = browser.run(
            "const canvas = document.querySelector('#plot canvas');
             const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
             let count = 0;
             for (let at = 0; at < data.length; at += 4) if (data[at] > 180 && data[at + 1] < 60 && data[at + 2] < 60) count += 1;
             return count",
        );
        found.as_u64().filter(|count| *count > 300)
    });
    assert!(alarm > 300);
    browser.screenshot("outage-desktop-light", false);
    browser.scheme("dark");
    browser.screenshot("outage-desktop-dark", false);
    // From a telephone to the screen on the wall.
    for (name, width, height, whole) in [
        ("360", 360, 740, true),
        ("wall", 1920, 1080, false),
        ("wall-4k", 3840, 2160, false),
    ] {
        browser.size(width, height);
        for scheme in ["dark", "light"] {
            browser.scheme(scheme);
            settle(&browser);
            browser.screenshot(&format!("outage-{name}-{scheme}"), whole);
            let wide = browser.run("return [document.documentElement.scrollWidth, innerWidth]");
            assert!(
                wide[0].as_u64() <= wide[1].as_u64(),
                "it scrolls sideways at {width}: {wide}"
            );
        }
        if !whole {
            let place = browser.run(
                "const box = (of) => document.querySelector(of).getBoundingClientRect();
                 return [box('.banner').bottom, box('#plot').bottom, innerHeight]",
            );
            let [banner, plot, height] = [0, 1, 2].map(|n| place[n].as_f64().unwrap());
            assert!(banner < height && plot < height, "at a glance: {place}");
        }
    }
    browser.size(1440, 1000);

    // The brake: what it does, where, and how the same is done everywhere.
    browser.click("//article[contains(@class, 'banner')]//button[starts-with(., 'Clamp')]");
    let dialog = browser.shows("#dialog", "this replica only");
    assert!(dialog.contains("[caller.checkout]\nquota = \""), "{dialog}");
    assert!(dialog.contains("(its usual is 2"), "{dialog}");
    browser.screenshot("clamp", false);
    browser.click("//dialog//button[. = 'Clamp']");
    browser.shows("#said", "Done, on this replica only");
    let (admitted, offered) = until("the graph falls", || {
        of_late(&demo, "checkout")
            .filter(|(admitted, offered)| *offered > 90.0 && *admitted < offered * 0.5)
    });
    println!("checkout sends {offered:.0}/s, of which {admitted:.0}/s are let in");
    // The figure beside the line is that of the line, and what it is, is said.
    browser.shows("#traffic-title", "that were let in");
    let figure = || {
        let shown = browser.run("return document.querySelector('#legend .suspect b').textContent");
        shown.as_str()?.parse::<f64>().ok()
    };
    until("the figure falls with the line", || {
        figure().filter(|figure| *figure < offered * 0.5)
    });
    browser.click("//button[@id='offered']");
    browser.shows("#traffic-title", "refused ones included");
    until("the figure is that of all that came", || {
        figure().filter(|figure| *figure > offered * 0.5)
    });
    browser.click("//button[@id='offered']");
    browser.screenshot("clamped", false);

    // What fails, and why; the address of the page shows it again.
    browser.click("//table[@id='table']//button[. = 'checkout']");
    let caller = browser.shows("#caller", "missing");
    for known in [
        "validation",
        "sku",
        "POST /v1/orders",
        "refused: quota",
        "4.2.0",
    ] {
        assert!(caller.contains(known), "{known}: {caller}");
    }
    let trace = browser.run("return document.querySelector('#caller code')?.textContent ?? ''");
    assert_eq!(trace.as_str().unwrap().len(), 32, "a trace id");
    browser.screenshot("one-caller", true);
    let address = browser.run("return location.href");
    assert!(
        address.as_str().unwrap().contains("#caller=checkout"),
        "{address}"
    );
    let reader = driver.browser();
    // What applies to others: a quota, or nothing.
    for (caller, limits) in [
        ("search", "500/s, burst 500"),
        ("web-shop", "limits of its own\nnone"),
    ] {
        reader.open("about:blank");
        reader.open(&format!("{page}#caller={caller}"));
        let shown = reader.shows("#caller", limits);
        assert_eq!(shown.contains("is refused"), caller == "search", "{shown}");
    }
    // A link to what is further back than two minutes shows it.
    reader.open("about:blank");
    let then = overview["at"].as_f64().unwrap() - 300.0;
    reader.open(&format!("{page}#zoom={then:.0}~{:.0}", then + 60.0));
    until("the span holds what is zoomed into", || {
        let span = reader
            .run("return document.querySelector('#spans [aria-pressed=true]')?.textContent ?? ''");
        (span == "15 min").then_some(())
    });
    reader.open("about:blank");
    reader.open(address.as_str().unwrap());
    reader.shows("#caller", "missing");
    assert_no_obstacles(&reader, "in the outage, light");
    reader.scheme("dark");
    assert_no_obstacles(&reader, "in the outage, dark");

    // People are told, with an estimate, and another reader sees it.
    browser.click("//button[@id='report-incident']");
    browser.write("//dialog//input[@name='name']", "Orders are slow");
    browser.write("//dialog//input[@name='eta']", "30");
    browser.click("//dialog//button[. = 'Publish']");
    browser.shows("#incidents", "Orders are slow");
    reader.shows("#incidents", "expected to be over at");
    browser.size(1440, 1040);
    browser.run("scrollTo(0, 0)");
    until("what was said is gone from the corner", || {
        browser
            .text("#said")
            .filter(|said| !said.is_empty())
            .is_none()
            .then_some(())
    });
    settle(&browser);
    browser.screenshot("held-and-told", false);
    browser.size(1440, 1000);
    reader.open(&format!("{page}status"));
    let status = reader.shows("main", "Orders are slow");
    assert!(status.contains("expected to be over: 20"), "{status}");
    reader.screenshot("status", true);
    assert_no_obstacles(&reader, "the status");
    // The other buttons.
    let banner = |text: &str| {
        browser.click(&format!(
            "//article[contains(@class, 'banner')]//button[starts-with(., '{text}')]"
        ));
    };
    let dialog = |title: &str, button: &str| {
        browser.shows("#dialog h2", title);
        browser.click(&format!("//dialog//button[. = '{button}']"));
        browser.shows("#said", "Done, on this replica only");
        until("the dialog is gone", || {
            let open = browser.run("return document.querySelector('#dialog').open");
            (open == false).then_some(())
        });
    };
    banner("Release");
    banner("Block");
    dialog("Block checkout", "Block");
    banner("Release (blocked)");
    banner("I have it");
    browser.shows(".banner dl", "local has it in hand");
    banner("Expected");
    dialog("this load is expected", "Expect it");
    browser.shows(".banner dl", "it was announced");
    let kept = std::fs::read_to_string(&state).unwrap();
    assert!(
        kept.contains("Orders are slow") && kept.contains("\"caller\": \"checkout\""),
        "{kept}"
    );
    for of in [&browser, &reader] {
        assert_eq!(of.complaints(), [""; 0]);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Serves a page behind tokens.
fn behind_tokens() -> std::net::SocketAddr {
    // `printf %s act | sha256sum`
    const ACT: &str = "f83f07be16e270186d35b876916c461995ebc3af5b1798f898c33285a1847dbc";
    let callers = Callers::builder().identify(identify::header("x-client-id"));
    let callers = callers.build().unwrap();
    let over = Post {
        name: Some("Prices were slow".to_owned()),
        state: Some(State::Resolved),
        ..Post::default()
    };
    callers.post_incident(over).unwrap();
    let access = Access::tokens([Token::operator("alice", ACT).unwrap()]);
    let page = callers.dashboard().access(access);
    let page = page.fleet_view("https://grafana.example/d/callerid-api");
    serve(axum::Router::new().nest_service("/callerid", page))
}

/// In this process, until the test ends.
fn serve(app: axum::Router) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
    });
    address
}

#[test]
fn a_token_is_asked_for_and_kept_nowhere() {
    let address = behind_tokens();
    let driver = Driver::start();
    let browser = driver.browser();
    browser.open(&format!("http://{address}/callerid/"));
    browser.shows("#token", "Token");
    assert!(browser.text("#callers").is_none());
    assert_no_obstacles(&browser, "the token is asked for");
    browser.run(
        "const ask = window.fetch; window.sent = [];
         window.fetch = (path, init) => { sent.push(init?.headers?.authorization ?? ''); return ask(path, init); }",
    );
    browser.write("//input[@name='token']", "wrong");
    browser.press(ENTER);
    browser.shows("#token-said", "This token may not look.");
    let sent = until("it goes on asking", || {
        let sent = browser.run("return sent");
        (sent.as_array()?.len() >= 5).then_some(sent)
    });
    let tried = sent
        .as_array()
        .unwrap()
        .iter()
        .filter(|of| *of == "Bearer wrong");
    assert_eq!(tried.count(), 1, "it is tried once: {sent}");
    browser.shows("#token-said", "This token may not look.");
    browser.write("//input[@name='token']", "act");
    browser.press(ENTER);
    browser.shows("#callers", "Callers");
    browser.shows("#report-incident", "Tell people");
    browser.shows("#fleet", "All replicas");
    browser.shows("#incidents", "Over within the last day");
    browser.shows("#incidents", "Prices were slow");
    // A link carries no token: what it leads to is shown on the page.
    browser.click("//nav/a[.='Status']");
    browser.shows("#dialog", "Prices were slow");
    browser.shows("#dialog", "over since");
    assert_no_obstacles(&browser, "the status by a token");
    browser.press(ESCAPE);
    browser.click("//nav/a[.='top.txt']");
    browser.shows("#dialog", "# callers:");
    browser.press(ESCAPE);
    let kept = browser.run(
        "return [document.cookie, localStorage.length, sessionStorage.length, location.href.includes('act')]",
    );
    assert_eq!(kept, serde_json::json!(["", 0, 0, false]));
    browser.open("about:blank");
    browser.open(&format!("http://{address}/callerid/"));
    browser.shows("#token", "Token");
}

/// A page under a switch on shadow, for who has the session of a proxy, which says `says` instead where it is not zero.
fn behind_a_session(says: &'static AtomicU16) -> std::net::SocketAddr {
    let callers = Callers::builder().identify(identify::header("x-client-id"));
    let callers = callers.mode(Mode::Shadow).build().unwrap();
    let access = Access::from_fn(|ask| {
        let cookies = ask.headers().get("cookie").and_then(|of| of.to_str().ok());
        match cookies {
            Some(of) if of.contains("session=anna") => Grant::nothing().read().operate("anna"),
            _ => Grant::nothing(),
        }
    });
    let proxy = move |request: Request, next: Next| async move {
        match StatusCode::from_u16(says.load(Ordering::SeqCst)) {
            Ok(status) if request.uri().path().contains("/v1/") => status.into_response(),
            _ => next.run(request).await,
        }
    };
    let service = axum::Router::new()
        .route("/prices", get(|| async {}))
        .layer(callers.layer());
    let login = || async { [("set-cookie", "session=anna; Path=/; HttpOnly; SameSite=Lax")] };
    let page = callers.dashboard().access(access);
    serve(
        service
            .route("/login", get(login))
            .nest_service("/callerid", page)
            .layer(from_fn(proxy)),
    )
}

#[test]
fn a_session_is_enough_and_is_not_lost_to_what_a_proxy_says() {
    static SAYS: AtomicU16 = AtomicU16::new(0);
    let says = |status| SAYS.store(status, Ordering::SeqCst);
    let address = behind_a_session(&SAYS);
    call(address, "GET", "/prices", &[("x-client-id", "ci")], "");
    let driver = Driver::start();
    let browser = driver.browser();
    browser.open(&format!("http://{address}/login"));
    browser.open(&format!("http://{address}/callerid/#caller=ci"));
    browser.shows("#table", "ci");
    browser.shows("#live", "live");

    // A brake that refuses nothing says so, before and after.
    browser.click("//section[@id='caller']//button[starts-with(., 'Clamp')]");
    let dialog = browser.shows("#dialog", "the switch of this replica is on shadow");
    for said in [
        "nothing is refused",
        "v1/do/mode",
        "accept = \"claimed\"",
        "usual is not known yet",
    ] {
        assert!(dialog.contains(said), "{said}: {dialog}");
    }
    browser.screenshot("clamp-in-shadow", false);
    browser.click("//dialog//button[. = 'Clamp']");
    browser.shows("#said", "nothing is refused");

    // A span ends a pause; a proxy that says no for a moment ends nothing, and no token would help.
    browser.click("//button[@id='pause']");
    browser.shows("#live", "paused");
    browser.click("//button[@data-span='1h']");
    browser.shows("#live", "live");
    let again = || {
        says(0);
        browser.click("//button[@data-span='15m']");
        browser.shows("#live", "live");
        browser.shows("#report-incident", "Tell people");
    };
    for (status, said, heard) in [
        (429, "too many questions", ""),
        (401, "not allowed", ""),
        (500, "no answer", "The service does not answer."),
    ] {
        says(status);
        browser.shows("#live", said);
        assert!(browser.text("#token").is_none(), "{status}");
        if !heard.is_empty() {
            assert_eq!(browser.run("return heard.textContent"), heard);
        }
        again();
    }
    let heard = browser.run("return heard.textContent");
    assert_eq!(heard, "It answers again.");
    let each_second = browser.run(
        "return [live, banners].filter((of) => of.closest('[aria-live], [role=status], [role=alert]')).length",
    );
    assert_eq!(each_second, 0, "a screen reader would never stop");

    let parts = browser.run(
        "const load = (name) => import(new URL(name, location.href).href);
         const parts = async () => {
             const [dom, chart, brake] = await Promise.all(['dom.js', 'chart.js', 'brake.js'].map(load));
             dom.announce('One.');
             dom.announce('Two.');
             await null;
             const told = document.querySelector('#heard').textContent;
             const lines = (n) => Array.from({ length: 12 }, (_, at) => `team-${n + at}`);
             let fewest = 12;
             for (let n = 0; n < 60; n += 5) {
                 const names = lines(n);
                 fewest = Math.min(fewest, new Set(names.map((name) => chart.colour(name, new Map(), names))).size);
             }
             const open = { id: 'x', kind: 'runaway_started', caller: 'ci', signal: 'rate', since: 1 };
             const past = { at: 900, episodes: [open], events: [], incidents: [], recent: [] };
             const callers = [{ caller: 'ip:10.0.0.1', provenance: 'inferred' }];
             const file = new brake.Brake(() => ({ callers }), () => null, () => null).lines('ip:10.0.0.1', 'quota');
             const errors = { ...open, id: 'y', signal: 'errors', since: 0 };
             const mark = brake.happened({ ...past, episodes: [errors, open] }).pins[0].text;
             return [told, fewest, brake.happened(past).bands, file.includes('\\n[caller') || file.startsWith('[caller'), mark];
         };
         return parts();",
    );
    let band = serde_json::json!({ "from": 1, "to": 900, "alarm": true });
    assert_eq!(
        parts,
        serde_json::json!(["One. Two.", 12, [band], false, "ci: rate, errors"])
    );
}

#[test]
fn names_are_text_and_a_keyboard_is_enough() {
    const HOSTILE: &str = "<img/src=x/onerror=document.title='owned'>";
    // What every object of JavaScript has.
    const METHOD: &str = "constructor";
    let demo = Demo::start(&[]);
    for name in [HOSTILE, METHOD] {
        demo.get("/v1/prices/a-1", name);
    }
    for n in 0..300 {
        demo.get("/v1/prices/a-1", &format!("team-{n:03}"));
    }
    let agent = [("user-agent", "<script>document.title='owned'</script>")];
    call(demo.address, "GET", "/v1/prices/a-1", &agent, "");
    let driver = Driver::start();
    let browser = driver.browser();
    let page = format!("http://{}/callerid/", demo.address);
    browser.open(&page);
    browser.shows("#table", HOSTILE);
    let rows = browser.run("return document.querySelectorAll('#table tbody tr').length");
    assert!(rows.as_u64() > Some(300), "{rows}");
    let took = browser.run(
        "const field = document.querySelector('#filter');
         const filter = (text) => { field.value = text; field.dispatchEvent(new Event('input')); };
         const sort = (nth) => document.querySelectorAll('#table thead button')[nth].click();
         const acts = [['sorted by name', () => sort(0)], ['turned round', () => sort(0)], ['sorted by rate', () => sort(1)],
             ['filtered to a hundred', () => filter('team-1')], ['to none', () => filter('no such')], ['all made anew', () => filter('')]];
         return acts.map(([what, act]) => {
             const began = performance.now();
             act();
             document.body.offsetHeight; // It is laid out too.
             return `${what} ${(performance.now() - began).toFixed(1)} ms`;
         }).join(', ')",
    );
    println!("{rows} rows, script and layout: {}", took.as_str().unwrap());
    browser.run("location.hash = ''");

    // Every row, and one by one.
    for name in [HOSTILE, METHOD, "__unknown__"] {
        browser.write("//input[@id='filter']", name);
        browser.shows("#count", "1 of 3");
        browser.click("//table[@id='table']//tbody//button");
        browser.shows("#caller h2", name);
        browser.shows("#caller", "Limits and refusals");
        match name {
            "__unknown__" => _ = browser.shows("#caller", "<script>document.title"),
            _ => _ = browser.shows("#caller .choices", "Clamp"),
        }
        browser.press(ESCAPE);
        until("it is closed", || {
            browser.text("#caller").is_none().then_some(())
        });
    }
    browser.run("const f = document.querySelector('#filter'); f.value = ''; f.dispatchEvent(new Event('input'))");
    let foreign = browser
        .run("return document.querySelectorAll('main img, main script, main iframe').length");
    assert_eq!(foreign, 0);
    assert_ne!(browser.run("return document.title"), "owned");
    assert_no_obstacles(&browser, "300 callers");

    // From the top by Tab: the way past, then everything that can be pressed.
    browser.open("about:blank");
    browser.open(&page);
    browser.shows("#table", HOSTILE);
    browser.press(TAB);
    assert_eq!(
        browser.run("return document.activeElement.className"),
        "skip"
    );
    browser.run("location.hash = 'log=1'");
    browser.press(ENTER);
    let past = browser.run("return [document.activeElement.id, location.hash]");
    assert_eq!(past, serde_json::json!(["callers", "#log=1"]));
    browser.open("about:blank");
    browser.open(&page);
    browser.shows("#table", HOSTILE);
    let focused = |what: &str| {
        for _ in 0..60 {
            if browser.run(&format!(
                "return document.activeElement.matches({})",
                Value::from(what)
            )) == true
            {
                return;
            }
            browser.press(TAB);
        }
        panic!("Tab never comes to {what}");
    };
    focused("#log");
    browser.press(ENTER);
    assert_eq!(
        browser.run("return document.querySelector('#log').ariaPressed"),
        "true"
    );
    focused("#pause");
    browser.press(ENTER);
    let paused = browser.shows("#live", "paused");
    focused("#plot");
    browser.press("++");
    browser.shows("#unzoom", "Whole span");
    let zoom = |browser: &Browser<'_>| {
        browser.run("return new URLSearchParams(location.hash.slice(1)).get('zoom')")
    };
    let zoomed = zoom(&browser);
    assert!(zoomed.is_string());
    assert_eq!(browser.text("#live").unwrap(), paused);
    browser.run("document.querySelector('#pause').click()");
    browser.shows("#live", "live");
    let shown = browser.text("#live").unwrap();
    until("it goes on", || {
        (browser.text("#live")? != shown).then_some(())
    });
    assert_eq!(zoom(&browser), zoomed, "the zoom stays while it updates");
    browser.press("0");
    assert!(zoom(&browser).is_null());
    focused("th button");
    browser.press(ENTER);
    assert_eq!(
        browser.run("return document.querySelector('th[aria-sort]').ariaSort"),
        "ascending"
    );
    let first = browser.run("return document.querySelector('#table tbody .name').textContent");
    assert_eq!(first, HOSTILE);
    focused("#table tbody .name");
    browser.press(ENTER);
    until("the caller has the focus", || {
        (browser.run("return document.activeElement.id") == "caller-title").then_some(())
    });
    browser.press(ESCAPE);
    until("the row has it again", || {
        (browser.run("return document.activeElement.textContent") == HOSTILE).then_some(())
    });

    // The page of a caller itself.
    let own = call(
        demo.address,
        "GET",
        "/callerid/me",
        &[("x-client-id", HOSTILE), ("accept", "text/html")],
        "",
    );
    assert_eq!(own.status, 200);
    assert!(!own.body.contains("<img"), "{}", own.body);
    assert_eq!(browser.complaints(), [""; 0]);
}
