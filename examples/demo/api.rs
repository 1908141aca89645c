//! The API that is called: prices and orders, and routes that are slow, long or broken on purpose.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use callerid::{Caller, ErrorDetail};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::IntervalStream;

/// The database that a real service would wait for: so many questions at once, the others wait their turn.
static CONNECTIONS: Semaphore = Semaphore::const_new(10);

async fn database(ms: u64) {
    let _turn = CONNECTIONS.acquire().await;
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

const LONGEST_SKU: usize = 64;
const LARGEST_ORDER: u64 = 1_000;
const LARGEST_BODY: usize = 16 * 1024;
const LONGEST_WAIT: u64 = 30_000;
const MOST_CHUNKS: usize = 1_000;
const LONGEST_PAUSE: u64 = 5_000;

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/v1/prices/{sku}", get(price))
        .route("/v1/orders", post(order))
        .route("/v1/slow", get(slow))
        .route("/v1/stream", get(stream))
        .route("/v1/fail", get(fail))
        .route("/healthz", get(async || "ok\n"))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

/// Query parameters that may be malformed.
type Params = Result<Query<Vec<(String, String)>>, QueryRejection>;

async fn price(Extension(caller): Extension<Caller>, Path(sku): Path<String>) -> Response {
    if sku.len() > LONGEST_SKU {
        let detail = ErrorDetail::new("no_such_sku").field("sku");
        return problem(StatusCode::NOT_FOUND, "there is no such article", detail);
    }
    let cents = cents(&sku);
    database(58 + u64::from(cents % 5)).await;
    Json(json!({ "sku": sku, "cents": cents, "for": caller.name() })).into_response()
}

async fn order(Extension(caller): Extension<Caller>, body: Bytes) -> Response {
    match parse_order(&body) {
        Ok((sku, quantity)) => {
            database(4).await;
            let cents = u64::from(cents(sku.as_str())) * quantity;
            let order =
                json!({ "sku": sku, "quantity": quantity, "cents": cents, "for": caller.name() });
            (StatusCode::CREATED, Json(order)).into_response()
        }
        Err(detail) => {
            // What was meant is looked for in the whole catalogue: one such order is cheap, and a flood is an outage.
            if detail.code == "missing" {
                database(65).await;
            }
            let title =
                "an order is {\"sku\": \"...\", \"quantity\": 1}, with a quantity from 1 to 1000";
            problem(StatusCode::UNPROCESSABLE_ENTITY, title, detail)
        }
    }
}

/// The article and how many of it, or what is wrong: a code and the field, which callerid counts by caller.
fn parse_order(body: &[u8]) -> Result<(String, u64), ErrorDetail> {
    let order: Value = serde_json::from_slice(body).map_err(|_| ErrorDetail::new("not_json"))?;
    let order = order
        .as_object()
        .ok_or_else(|| ErrorDetail::new("not_an_object"))?;
    let wrong = |code, field| Err(ErrorDetail::new(code).field(field));
    let sku = match order.get("sku") {
        None | Some(Value::Null) => return wrong("missing", "sku"),
        Some(Value::String(sku)) if (1..=LONGEST_SKU).contains(&sku.len()) => sku.clone(),
        Some(Value::String(_)) => return wrong("out_of_range", "sku"),
        Some(_) => return wrong("wrong_type", "sku"),
    };
    let quantity = match order.get("quantity") {
        None | Some(Value::Null) => return wrong("missing", "quantity"),
        Some(Value::Number(number)) => match number.as_u64() {
            Some(quantity @ 1..=LARGEST_ORDER) => quantity,
            _ => return wrong("out_of_range", "quantity"),
        },
        Some(_) => return wrong("wrong_type", "quantity"),
    };
    Ok((sku, quantity))
}

/// Answers after `ms` milliseconds, at most 30,000.
async fn slow(params: Params) -> Response {
    match numbers(params, ["ms"], [100]) {
        Ok([ms]) => {
            tokio::time::sleep(Duration::from_millis(ms.min(LONGEST_WAIT))).await;
            "done\n".into_response()
        }
        Err(detail) => bad_query(detail),
    }
}

/// Answers with `chunks` lines, one every `ms` milliseconds: at most 1,000, at most 5,000.
async fn stream(params: Params) -> Response {
    match numbers(params, ["chunks", "ms"], [10, 100]) {
        Ok([chunks, ms]) => {
            let chunks = usize::try_from(chunks).map_or(MOST_CHUNKS, |n| n.min(MOST_CHUNKS));
            let pause = Duration::from_millis(ms.min(LONGEST_PAUSE)).max(Duration::from_micros(1));
            let lines = IntervalStream::new(tokio::time::interval(pause))
                .take(chunks)
                .map(|_| Ok::<_, Infallible>("chunk\n"));
            Body::from_stream(lines).into_response()
        }
        Err(detail) => bad_query(detail),
    }
}

async fn fail() -> Response {
    let detail = ErrorDetail::new("price_store_down");
    problem(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the price store does not answer",
        detail,
    )
}

/// The named numbers of a query, or what is wrong.
fn numbers<const N: usize>(
    params: Params,
    names: [&'static str; N],
    defaults: [u64; N],
) -> Result<[u64; N], ErrorDetail> {
    let wrong = || ErrorDetail::new("not_a_number");
    let Query(params) = params.map_err(|_| ErrorDetail::new("not_a_query"))?;
    let mut found = defaults;
    for (name, number) in names.into_iter().zip(&mut found) {
        if let Some((_, text)) = params.iter().find(|(key, _)| key == name) {
            *number = text.parse().map_err(|_| wrong().field(name))?;
        }
    }
    Ok(found)
}

fn bad_query(detail: ErrorDetail) -> Response {
    problem(
        StatusCode::BAD_REQUEST,
        "a parameter is not a number",
        detail,
    )
}

/// An answer as RFC 9457 has it, with what callerid counts about it.
fn problem(status: StatusCode, title: &str, detail: ErrorDetail) -> Response {
    let body = json!({
        "type": "about:blank",
        "title": title,
        "status": status.as_u16(),
        "code": detail.code,
        "field": detail.field,
    });
    let mut response = (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        body.to_string(),
    )
        .into_response();
    response.extensions_mut().insert(detail);
    response
}

/// A price that is always the same for the same article.
fn cents(sku: &str) -> u32 {
    let hash = sku.bytes().fold(2_166_136_261, |hash: u32, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    100 + hash % 9_900
}
