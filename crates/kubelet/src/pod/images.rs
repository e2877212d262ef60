//! Images of containers: there, or pulled in the background, or held back, in Kubernetes' words.
//!
//! See <https://kubernetes.io/docs/concepts/containers/images/>.

use std::{collections::BTreeSet, time::Duration};

use hitless_base::Backoff;
use hitless_client::events::Note;
use hitless_types::well_known::reason;

use super::{
    memory::{ImageState, Waiting},
    spec,
    worker::{Input, Worker},
};
use crate::{
    context::shown,
    ports::{Auth, Image, RuntimeError},
    registry,
    sources::{self, Reference},
};

/// First pause before an image is pulled again; doubles.
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// How long the pull's own error is shown before `ImagePullBackOff` takes its place.
const ERROR_SHOWN: Duration = Duration::from_secs(2);
/// Pause before a name or policy that cannot work is looked at again.
const HOPELESS: Duration = Duration::from_secs(10);

impl Worker {
    fn hold(&mut self, container: &str, reason: &'static str, message: String, pause: Duration) {
        let retry_at = self.ctx.clock.now().saturating_add(pause).ok();
        self.memory.waiting.insert(container.to_owned(), Waiting { reason, message, retry_at });
        self.memory.images.insert(container.to_owned(), ImageState::Held);
    }

    /// Whether the container shows this waiting reason already: Events are for what is new.
    fn shows(&self, container: &str, reason: &str) -> bool {
        self.memory.waiting.get(container).is_some_and(|w| w.reason == reason)
    }

    /// Looks whether the image is there; starts a pull if it is not and may be pulled.
    pub(super) async fn check_image(&mut self, container: &str) {
        let Some(c) = spec::container(&self.pod, container) else { return };
        let image = c.image.clone().unwrap_or_default();
        let mut policy = registry::pull_policy(c.image_pull_policy.as_deref(), &image).to_owned();
        if let Err(words) = registry::check_reference(&image) {
            let message = format!(
                "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format{words}"
            );
            if !self.shows(container, "InvalidImageName") {
                self.warn("InspectFailed", message.clone());
                self.warn(reason::FAILED, "Error: InvalidImageName".to_owned());
            }
            return self.hold(container, "InvalidImageName", message, HOPELESS);
        }
        if self.shows(container, "ErrImagePull") {
            return self.back_off(container, &image);
        }
        let there = match self.ctx.runtime.image_status(&image).await {
            Ok(there) => there,
            Err(error) => {
                let message = format!("Failed to inspect image {image:?}: {error}");
                if !self.shows(container, "ImageInspectError") {
                    self.warn("InspectFailed", message.clone());
                    self.warn(reason::FAILED, "Error: ImageInspectError".to_owned());
                }
                return self.hold(container, "ImageInspectError", message, HOPELESS);
            }
        };
        // Whoever has brought an image to the node by hand means that one: no registry need know it, or a newer one. `Always` is what
        // every `latest` has that says nothing of it.
        if policy == "Always"
            && there.is_some()
            && self.ctx.runtime.is_imported(&image).await.unwrap_or_else(|error| {
                tracing::warn!(image, %error, "not known whether it was imported");
                false
            })
        {
            "IfNotPresent".clone_into(&mut policy);
        }
        match (there, policy.as_str()) {
            (Some(found), "IfNotPresent" | "Never") => {
                let message = format!("Container image {image:?} already present on machine");
                self.event(Note { reason: reason::PULLED, message, ..Note::default() });
                self.image_is_there(container, found);
            }
            (None, "Never") => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                if !self.shows(container, "ErrImageNeverPull") {
                    self.warn("ErrImageNeverPull", message.clone());
                    self.warn(reason::FAILED, "Error: ErrImageNeverPull".to_owned());
                }
                self.hold(container, "ErrImageNeverPull", message, HOPELESS);
            }
            _ => self.pull(container, image).await,
        }
    }

    fn image_is_there(&mut self, container: &str, image: Image) {
        self.memory.images.insert(container.to_owned(), ImageState::Present(image));
        self.memory.waiting.remove(container);
    }

    async fn pull(&mut self, container: &str, image: String) {
        self.event(Note {
            reason: reason::PULLING,
            message: format!("Pulling image {image:?}"),
            ..Note::default()
        });
        let auth = self.auth_for(&image).await;
        self.memory.images.insert(container.to_owned(), ImageState::Pulling);
        let (runtime, send, container) = (self.ctx.runtime.clone(), self.send.clone(), container.to_owned());
        self.tasks.spawn(async move {
            let began = std::time::Instant::now();
            let result = runtime.pull_image(&image, auth.as_ref()).await.map(|_| ());
            let pulled = Input::Pulled { container, image, took: began.elapsed(), result };
            let _worker_has_ended = send.send(pulled).await;
        });
    }

    async fn auth_for(&self, image: &str) -> Option<Auth> {
        let secrets = self.pod.spec.as_ref()?.image_pull_secrets.as_ref()?;
        let references: BTreeSet<Reference> =
            secrets.iter().map(|s| Reference::Secret(s.name.clone())).collect();
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let sources = sources::fetch(&self.ctx.client, namespace, references.clone()).await.ok()?;
        references.iter().filter_map(|r| sources.data(r)).find_map(|data| registry::auth(data, image))
    }

    /// A pull has ended.
    pub(super) fn take_pull(
        &mut self,
        container: &str,
        image: &str,
        took: Duration,
        result: Result<(), RuntimeError>,
    ) {
        if self.memory.images.get(container) != Some(&ImageState::Pulling) {
            return;
        }
        match result {
            Ok(()) => {
                let message = format!(
                    "Successfully pulled image {image:?} in {t} ({t} including waiting)",
                    t = shown(took)
                );
                self.event(Note { reason: reason::PULLED, message, ..Note::default() });
                self.image_backoffs.remove(container);
                self.memory.waiting.remove(container);
                // Its configuration is still to be read; the policy must not ask for another pull.
                self.memory.images.insert(container.to_owned(), ImageState::Present(Image::default()));
            }
            Err(error) => {
                self.warn(reason::FAILED, format!("Failed to pull image {image:?}: {error}"));
                self.warn(reason::FAILED, "Error: ErrImagePull".to_owned());
                self.hold(container, "ErrImagePull", error.to_string(), ERROR_SHOWN);
            }
        }
    }

    /// After the pull's own error has been shown: hold back.
    fn back_off(&mut self, container: &str, image: &str) {
        let backoff = self
            .image_backoffs
            .entry(container.to_owned())
            .or_insert_with(|| Backoff::new(BACKOFF_FIRST, BACKOFF_MAX));
        let pause = backoff.step().saturating_sub(ERROR_SHOWN);
        let cause = self.memory.waiting.get(container).map(|w| w.message.clone()).unwrap_or_default();
        self.event(Note {
            reason: reason::BACK_OFF,
            message: format!("Back-off pulling image {image:?}"),
            ..Note::default()
        });
        self.warn(reason::FAILED, "Error: ImagePullBackOff".to_owned());
        let message = format!("Back-off pulling image {image:?}: ErrImagePull: {cause}");
        self.hold(container, "ImagePullBackOff", message, pause);
    }
}
