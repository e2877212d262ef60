//! Follows containerd's own event service, so that the kubelet hears of a start or an end at once and need not poll.
//!
//! An event is a hint: what is lost while the stream is down is made up for by one hint when it is up again.

use std::{sync::Arc, time::Duration};

use hitless_base::Backoff;
use prost::Message;
use tokio::sync::Notify;
use tonic::{Status, transport::Channel};
use tracing::debug;

use super::{
    event_proto::{Envelope, SubscribeRequest, TaskExit, events_client::EventsClient},
    in_namespace,
};

/// What the kubelet can see of a container changes with these and with no others.
const TOPICS: &str = r#"topic~="^/(tasks/(start|exit|oom|delete)|containers/delete)$""#;

/// Runs until it is aborted.
pub(super) async fn follow(channel: Channel, happened: Arc<Notify>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        match subscribe(&channel, &happened, &mut backoff).await {
            Ok(()) => debug!("containerd ended its event stream"),
            Err(status) => debug!(error = hitless_base::chain(&status), "no event stream from containerd"),
        }
        tokio::time::sleep(backoff.step()).await;
    }
}

async fn subscribe(channel: &Channel, happened: &Notify, backoff: &mut Backoff) -> Result<(), Status> {
    let request = in_namespace(SubscribeRequest { filters: vec![TOPICS.to_owned()] });
    let mut stream = EventsClient::new(channel.clone()).subscribe(request).await?.into_inner();
    backoff.reset();
    happened.notify_one();
    while let Some(event) = stream.message().await? {
        if matters(&event) {
            happened.notify_one();
        }
    }
    Ok(())
}

/// Whether the event can mean anything to the kubelet. A command that ran in a container (an exec probe) also "exits";
/// waking the kubelet for each would make it list everything several times a second for nothing.
fn matters(event: &Envelope) -> bool {
    match &event.event {
        Some(packed) if event.topic == "/tasks/exit" => TaskExit::decode(packed.value.as_slice())
            .map_or(true, |exit| exit.id.is_empty() || exit.id == exit.container_id),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::event_proto::Packed, *};

    fn event(topic: &str, container_id: &str, id: &str) -> Envelope {
        let exit = TaskExit { container_id: container_id.into(), id: id.into() };
        let packed = Packed { type_url: "containerd.events.TaskExit".into(), value: exit.encode_to_vec() };
        Envelope { topic: topic.into(), event: Some(packed) }
    }

    #[test]
    fn the_end_of_a_command_in_a_container_is_not_the_containers_end() {
        assert!(matters(&event("/tasks/exit", "c", "c")));
        assert!(!matters(&event("/tasks/exit", "c", "probe")));
        assert!(matters(&event("/tasks/start", "c", "")));
    }
}
