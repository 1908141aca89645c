//! Messages and a client for the example of tonic, as `tonic-build` would generate them of
//!
//! ```text
//! package shop;
//! message Sku { string sku = 1; }
//! message Price { uint32 cents = 1; }
//! service Prices { rpc Get(Sku) returns (Price); rpc Watch(Sku) returns (stream Price); }
//! ```

use std::net::SocketAddr;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::check::Error;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Sku {
    #[prost(string, tag = "1")]
    pub(crate) sku: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Price {
    #[prost(uint32, tag = "1")]
    pub(crate) cents: u32,
}

/// Calls every method over a real connection: a price, none, a stream that breaks, a method that does not exist.
pub(crate) async fn call(address: SocketAddr, caller: &'static str) -> Result<(), Error> {
    let channel = Endpoint::try_from(format!("http://{address}"))?
        .connect()
        .await?;
    let mut client = Grpc::new(channel);
    let codec = ProstCodec::<Sku, Price>::default;
    let request = |sku: &str| {
        let mut request = Request::new(Sku { sku: sku.into() });
        request.metadata_mut().insert(
            "x-client-id",
            tonic::metadata::MetadataValue::from_static(caller),
        );
        request
    };
    let method = PathAndQuery::from_static;

    client.ready().await?;
    let price = client.unary(request("42"), method("/shop.Prices/Get"), codec());
    assert_eq!(price.await?.into_inner().cents, 995);

    client.ready().await?;
    let refused = client.unary(request(""), method("/shop.Prices/Get"), codec());
    assert_eq!(
        refused.await.map_err(|status| status.code()).err(),
        Some(Code::InvalidArgument)
    );

    client.ready().await?;
    let watched = client.server_streaming(request("42"), method("/shop.Prices/Watch"), codec());
    let mut watched = watched.await?.into_inner();
    let mut cents = Vec::new();
    let broken = loop {
        match watched.message().await {
            Ok(Some(price)) => cents.push(price.cents),
            Ok(None) => break Code::Ok,
            Err(status) => break status.code(),
        }
    };
    assert_eq!((cents, broken), (vec![995, 990, 985], Code::Unavailable));

    client.ready().await?;
    let invented = client.unary(request("42"), method("/shop.Prices/Invented"), codec());
    assert_eq!(
        invented.await.map_err(|status| status.code()).err(),
        Some(Code::Unimplemented)
    );
    Ok(())
}
