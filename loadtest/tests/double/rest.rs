//! The double's `POST /api/v1/push`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::serve::ListenerExt as _;
use serde_json::{Value, json};
use tidegate_proto::v1::{PushMessage, PushRequest, PushResult};
use tokio::net::TcpListener;

use super::hub::{Answer, Hub};

pub async fn serve(listener: TcpListener, hub: Hub) {
    let routes = axum::Router::new().route("/api/v1/push", axum::routing::post(push)).with_state(hub);
    let _ = axum::serve(listener.tap_io(|stream| drop(stream.set_nodelay(true))), routes).await;
}

async fn push(State(hub): State<Hub>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let to: Vec<String> = body["to"].as_array().map(|to| to.iter().map(text).collect()).unwrap_or_default();
    if to.is_empty() || !body["message"]["content"].is_string() {
        let error = json!({"error": {"code": "BAD_REQUEST", "message": "to and message.content are needed"}});
        return (StatusCode::BAD_REQUEST, Json(error));
    }
    let message = PushMessage {
        r#type: text(&body["message"]["type"]),
        content: text(&body["message"]["content"]),
        ..PushMessage::default()
    };
    let message_id = text(&body["message_id"]);
    let request = PushRequest { to, message: Some(message), message_id, ..PushRequest::default() };
    match hub.push(&request).await {
        Answer::Results(results) => {
            let results: Vec<Value> = results.iter().map(result).collect();
            (StatusCode::OK, Json(json!({ "results": results })))
        }
        Answer::Broken => {
            let error = json!({"error": {"code": "UNAVAILABLE", "message": "planted", "retry": true}});
            (StatusCode::SERVICE_UNAVAILABLE, Json(error))
        }
        Answer::Nothing => std::future::pending().await,
    }
}

fn result(result: &PushResult) -> Value {
    match &result.error {
        Some(error) => json!({
            "to": result.to,
            "status": "error",
            "error": {"code": error.code, "message": error.message, "retry": error.retry},
        }),
        None => json!({
            "to": result.to,
            "status": "accepted",
            "message_id": result.message_id,
            "epoch": result.epoch,
            "seq": result.seq,
            "duplicate": result.duplicate,
        }),
    }
}
