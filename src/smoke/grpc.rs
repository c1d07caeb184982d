//! One question in the gRPC health protocol, over HTTP/2 without TLS (prior knowledge, as instances speak it).

use std::net::SocketAddr;

use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::text::{EXCERPT, quoted, root_cause};
use super::{Failure, Limit};
use crate::spec::GrpcSmoke;

/// One try on a connection of its own: an instance that refuses new connections must not pass on an old one.
pub(super) async fn ask(test: &GrpcSmoke, address: SocketAddr, limit: Limit) -> Result<(), Failure> {
    match tokio::time::timeout(limit.time, check(test, address)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::answer(format!("no answer within {limit}"))),
    }
}

async fn check(test: &GrpcSmoke, address: SocketAddr) -> Result<(), Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a socket address makes a valid URI");
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| Failure::answer(format!("it could not be reached ({})", root_cause(&error))))?;
    let request = HealthCheckRequest {
        service: test.grpc.clone(),
    };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(Failure::answer(format!(
                "answered {} where SERVING was expected",
                other.as_str_name()
            ))),
        },
        Err(status) => Err(Failure::answer(match status.code() {
            Code::NotFound => "it does not report the health of such a service; check the name".to_owned(),
            Code::Unimplemented => {
                "it does not speak the gRPC health protocol; register it, or use an HTTP or command test".to_owned()
            }
            code => format!("answered with status {code:?} ({})", quoted(status.message(), EXCERPT)),
        })),
    }
}
