//! Benchmarks of single steps of a Pod's life. Here the one behind "delete to stop signal, watermarks included": single deletions, one
//! after another, without traffic.

mod pods;

use std::{fmt, time::Duration};

use hitless_base::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, api::DeleteParams};
use tokio::time::sleep;

use crate::{
    Mode, ProveError, Withdrawal,
    manifests::{APP_NEW, Plan},
    report,
    space::{Space, name, uid},
    withdrawal::Stop,
};

pub use pods::bench_pods;

/// Pods at a time; each deletion waits for its replacement.
const REPLICAS: u32 = 4;
/// How long the cluster is left in peace before the next deletion: what follows from the one before (status, events, the runtime's
/// own tidying) is not part of a single one.
const PEACE: Duration = Duration::from_millis(300);

/// What the benchmark measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WithdrawalBench {
    /// Deletions.
    pub deletions: usize,
    /// Deletions whose stop signal was reported.
    pub measured: usize,
    /// Delete to stop signal, in milliseconds.
    pub ms: Withdrawal,
}

impl fmt::Display for WithdrawalBench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
        write!(
            f,
            "delete to stop signal over {} of {} single deletions: p50 {}, p99 {}, max {}",
            self.measured,
            self.deletions,
            ms(self.ms.p50),
            ms(self.ms.p99),
            ms(self.ms.max)
        )
    }
}

/// Deletes `deletions` Pods of a workload behind a Service, one at a time, each after the replacement of the one before is
/// Programmed and the cluster is at rest again. `on_deletion` is told after each how many were made. The namespace is deleted at the end, also on an error.
///
/// # Errors
/// The API refused something, or a replacement did not come in its bound.
pub async fn bench_withdrawal(
    client: Client,
    deletions: usize,
    on_deletion: impl Fn(usize),
) -> Result<WithdrawalBench, ProveError> {
    let name = format!("bench-withdrawal-{:06x}", Timestamp::now().as_microsecond() & 0xff_ffff);
    let space = Space::create(client, name).await?;
    let measured = measure(&space, deletions, on_deletion).await;
    let destroyed = space.destroy(true).await;
    let times = measured?;
    destroyed?;
    Ok(WithdrawalBench { deletions, measured: times.len(), ms: report::withdrawal(&times) })
}

async fn measure(
    space: &Space,
    deletions: usize,
    on_deletion: impl Fn(usize),
) -> Result<Vec<f64>, ProveError> {
    let plan = Plan {
        mode: Mode::Loop,
        replicas_new: REPLICAS,
        replicas_keep_alive: 0,
        replicas_dns: 0,
        budget: false,
        probe: false,
    };
    space.set_up(&plan).await?;
    let pods = space.api::<Pod>();
    for done in 0..deletions {
        let living = space.pods_of(APP_NEW);
        // The oldest first, so that each Pod has lived for a while and the nodes take turns.
        let Some(oldest) = living.iter().min_by_key(|pod| pod.metadata.creation_timestamp.clone()) else {
            break;
        };
        let name = name(oldest);
        pods.delete(&name, &DeleteParams::default())
            .await
            .map_err(ProveError::api(format!("delete pod {name}")))?;
        space.gone(&[uid(oldest)].into()).await?;
        space.rolled_out(&plan).await?;
        sleep(PEACE).await;
        on_deletion(done + 1);
    }
    Ok(space.stops().await?.iter().filter_map(Stop::ms).collect())
}
