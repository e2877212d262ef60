//! Service account tokens: who gets them, what they are bound to, and when they are good.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test: a panic is how it fails"
)]

mod common;

use std::sync::Arc;

use axum::{body::Body, http::Request};
use common::{Bench, bench_with};
use hitless_apiserver::{Identity, Options, TokenKey};
use serde_json::{Value, json};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn with_robot() -> Bench {
    let key = Arc::new(TokenKey::create().unwrap());
    let bench = bench_with(Options { token_key: Some(key), ..Options::default() }).await;
    bench.post(ACCOUNTS, json!({"metadata": {"name": "robot"}})).await.ok();
    bench
}

async fn code_with(bench: &Bench, token: &str, path: &str) -> u16 {
    let request = Request::get(path).header("authorization", format!("Bearer {token}"));
    let anonymous = bench.as_user(Identity::anonymous());
    anonymous.send(request.body(Body::empty()).unwrap()).await.status().as_u16()
}

fn token_of(answer: &Value) -> String {
    answer["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_is_its_accounts_word_until_the_account_goes() {
    let bench = with_robot().await;
    let path = format!("{ACCOUNTS}/robot/token");
    let made = bench.post(&path, json!({"spec": {"expirationSeconds": 600}})).await.ok();
    assert_eq!((&made["kind"], &made["spec"]["expirationSeconds"]), (&json!("TokenRequest"), &json!(600)));
    let token = token_of(&made);
    assert_eq!(code_with(&bench, &token, "/apis").await, 200);
    assert_eq!(code_with(&bench, &token, PODS).await, 403);
    assert_eq!(code_with(&bench, &format!("{token}x"), "/apis").await, 401);
    let other = json!({"spec": {"audiences": ["vault"]}});
    let foreign = token_of(&bench.post(&path, other).await.ok());
    assert_eq!(code_with(&bench, &foreign, "/apis").await, 401, "it is for somebody else");
    let short = bench.post(&path, json!({"spec": {"expirationSeconds": 599}})).await;
    assert!(short.refusal().0 == 422 && short.refusal().1.contains("less than 10 minutes"), "{short:?}");
    assert_eq!(bench.post(&format!("{ACCOUNTS}/none/token"), json!({})).await.code, 404);
    bench.delete(&format!("{ACCOUNTS}/robot"), json!({})).await.ok();
    bench.post(ACCOUNTS, json!({"metadata": {"name": "robot"}})).await.ok();
    assert_eq!(code_with(&bench, &token, "/apis").await, 401, "a namesake is another account");
}

#[tokio::test]
async fn a_node_has_tokens_for_its_own_pods_only() {
    let bench = with_robot().await;
    for (name, node) in [("mine", "n1"), ("other", "n2")] {
        let spec = json!({"nodeName": node, "serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}]});
        bench.post(PODS, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
    }
    let mine = bench.get(&format!("{PODS}/mine")).await.ok();
    assert_eq!(mine["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["path"], "token");
    let node = bench.as_user(Identity::new("system:node:n1", &["system:nodes"]));
    let path = format!("{ACCOUNTS}/robot/token");
    let bound =
        |pod: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod}}});
    let token = token_of(&node.post(&path, bound("mine")).await.ok());
    assert_eq!(code_with(&bench, &token, "/apis").await, 200);
    assert_eq!(node.post(&path, bound("other")).await.code, 403);
    assert_eq!(node.post(&path, json!({})).await.code, 403);
    assert_eq!(node.post(&format!("{ACCOUNTS}/default/token"), bound("mine")).await.code, 404);
    bench.delete(&format!("{PODS}/mine"), json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(code_with(&bench, &token, "/apis").await, 401, "its Pod is gone");
}
