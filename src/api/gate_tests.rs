//! Tokens and rights as the cluster answers them: what is kept, for how many, and what is never taken for a yes.

use http::Method;
use serde_json::json;

use super::*;
use crate::apiserver::testing::{FakeServer, Trouble};

fn headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    headers
}

fn peer() -> SocketAddr {
    "192.0.2.7:1234".parse().unwrap()
}

fn gate(fake: &FakeServer, audience: Option<&str>) -> ClusterGate {
    ClusterGate::new(
        ApiServer::over(fake.client("wade-system"), "wade-system"),
        audience.map(str::to_owned),
    )
}

fn questions(fake: &FakeServer, path: &str) -> usize {
    fake.asked().iter().filter(|asked| asked.path == path).count()
}

const RIGHT: Right<'static> = Right {
    verb: "abort",
    resource: "releases.wade.dev",
    namespace: "shop",
    name: Some("checkout"),
};

#[tokio::test]
async fn answers_of_the_server_are_kept_and_its_failures_are_not() {
    let fake = FakeServer::new();
    let gate = gate(&fake, None);
    let yes = json!({"status": {"authenticated": true, "user": {"username": "ann", "uid": "7", "extra": {"scopes": ["read"]}}}});
    fake.answer(Method::POST, TOKENS, 201, &yes.to_string());
    fake.trouble(Method::POST, TOKENS, Trouble::Unreachable);
    let failed = gate.authenticate(&headers("t"), peer()).await.unwrap_err();
    assert_eq!(failed.kind, ProblemKind::Unavailable);
    let ann = gate
        .authenticate(&headers("t"), peer())
        .await
        .expect("asked again, and known");
    gate.authenticate(&headers("t"), peer()).await.expect("remembered");
    assert_eq!(questions(&fake, TOKENS), 2);

    fake.trouble(
        Method::POST,
        ACCESS,
        Trouble::Refused(500, "InternalError", "etcd is away"),
    );
    let failed = gate.allow(&ann, RIGHT).await.unwrap_err();
    assert_eq!(failed.kind, ProblemKind::Unavailable, "no answer is never a yes");
    fake.trouble(
        Method::POST,
        ACCESS,
        Trouble::Refused(403, "Forbidden", "wade cannot create subjectaccessreviews"),
    );
    assert_eq!(
        gate.allow(&ann, RIGHT).await.unwrap_err().kind,
        ProblemKind::Unavailable
    );
    for odd in ["{}", r#"{"status": "yes"}"#, "allowed"] {
        fake.answer(Method::POST, ACCESS, 201, odd);
        assert_eq!(
            gate.allow(&ann, RIGHT).await.unwrap_err().kind,
            ProblemKind::Unavailable,
            "{odd}"
        );
    }
    for no in [
        json!({"allowed": false, "evaluationError": "a role is gone"}),
        json!({"allowed": true, "denied": true}),
        json!({"allowed": "true"}),
    ] {
        fake.answer(Method::POST, ACCESS, 201, &json!({"status": no}).to_string());
        let other = Right {
            verb: if no["denied"] == true { "pause" } else { "resume" },
            ..RIGHT
        };
        let refused = gate.allow(&ann, other).await.unwrap_err();
        assert_eq!(refused.kind, ProblemKind::Forbidden, "{no}");
    }
    fake.answer(
        Method::POST,
        ACCESS,
        201,
        &json!({"status": {"allowed": true}}).to_string(),
    );
    fake.forget();
    gate.allow(&ann, RIGHT).await.expect("allowed now");
    gate.allow(&ann, RIGHT).await.expect("remembered");
    assert_eq!(questions(&fake, ACCESS), 1);
    let spec = &fake.asked()[0].body["spec"];
    assert_eq!(
        (&spec["uid"], &spec["extra"]),
        (&json!("7"), &json!({"scopes": ["read"]})),
        "a token's limits go along"
    );
    gate.allow(
        &ann,
        Right {
            namespace: "bank",
            ..RIGHT
        },
    )
    .await
    .expect("another question");
    let unscoped = Caller {
        extra: Arc::default(),
        ..ann
    };
    gate.allow(&unscoped, RIGHT).await.expect("and another");
    assert_eq!(
        questions(&fake, ACCESS),
        3,
        "an answer is for one question of one caller"
    );
}

#[tokio::test]
async fn a_token_for_somebody_else_is_not_accepted() {
    let fake = FakeServer::new();
    let gate = gate(&fake, Some("wade"));
    let user = json!({"username": "ann"});
    for (audiences, fine) in [
        (json!(null), false),
        (json!(["vault"]), false),
        (json!(["vault", "wade"]), true),
    ] {
        let answer = json!({"status": {"authenticated": true, "user": user, "audiences": audiences}});
        fake.answer(Method::POST, TOKENS, 201, &answer.to_string());
        let token = audiences.to_string();
        assert_eq!(
            gate.authenticate(&headers(&token), peer()).await.is_ok(),
            fine,
            "{audiences}"
        );
    }
    assert_eq!(fake.asked()[0].body["spec"]["audiences"], json!(["wade"]));
    let nameless = json!({"status": {"authenticated": true, "user": {}, "audiences": ["wade"]}});
    fake.answer(Method::POST, TOKENS, 201, &nameless.to_string());
    assert!(gate.authenticate(&headers("x"), peer()).await.is_err());
}

#[tokio::test]
async fn a_flood_of_tokens_reaches_neither_the_server_nor_the_memory() {
    let fake = FakeServer::new();
    let gate = gate(&fake, None);
    let no = json!({"status": {"authenticated": false, "error": "[invalid bearer token]"}});
    fake.answer(Method::POST, TOKENS, 201, &no.to_string());
    let mut kinds = std::collections::BTreeMap::new();
    for n in 0..500 {
        let refused = gate
            .authenticate(&headers(&format!("guess-{n}")), peer())
            .await
            .unwrap_err();
        *kinds.entry(format!("{:?}", refused.kind)).or_insert(0) += 1;
    }
    assert!(questions(&fake, TOKENS) < 40, "{kinds:?}");
    assert!(kinds["Busy"] > 450, "{kinds:?}");
    // Others are not held up by it.
    let other = "192.0.2.8:1".parse().unwrap();
    assert_eq!(
        gate.authenticate(&headers("x"), other).await.unwrap_err().kind,
        ProblemKind::Unauthenticated
    );

    let yes = json!({"status": {"authenticated": true, "user": {"username": "ann"}}});
    fake.answer(Method::POST, TOKENS, 201, &yes.to_string());
    fake.answer(
        Method::POST,
        ACCESS,
        201,
        &json!({"status": {"allowed": true}}).to_string(),
    );
    for n in 0..2 * MOST_TOKENS {
        let address = SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 1));
        gate.authenticate(&headers(&format!("t{n}")), address)
            .await
            .expect("a token");
    }
    assert!(gate.tokens.lock().unwrap().len() <= MOST_TOKENS);
}

#[test]
fn a_request_shows_one_token() {
    let mut two = headers("a");
    two.append(header::AUTHORIZATION, "Bearer b".parse().unwrap());
    let with = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    };
    let long = format!("Bearer {}", "x".repeat(MOST_TOKEN + 1));
    for bad in [
        HeaderMap::new(),
        two,
        with("Bearer"),
        with("Bearer "),
        with("Basic YTpi"),
        with(&long),
    ] {
        assert_eq!(bearer(&bad).unwrap_err().kind, ProblemKind::Unauthenticated, "{bad:?}");
    }
    assert_eq!(bearer(&with("bearer  abc ")).unwrap(), "abc");
}
