//! Many real sandboxes at once.

use std::process::ExitCode;
use std::time::Instant;

use futures::future::join_all;
use tokio::runtime::Builder;

use crate::client::Client;
use crate::gateway::{self, Process};
use crate::percentile::percentile;
use crate::report::Report;

/// Keys typed into each sandbox.
const KEYS: usize = 50;

pub(crate) fn run(count: usize, write: bool) -> ExitCode {
    let mut report = Report::new("Many sandboxes", "make load");
    let mut gateway = Process::start(&[gateway::DOCKER]);
    let Some(address) = gateway.address() else {
        return ExitCode::FAILURE;
    };
    report.say(&format!("{count} sandboxes in gVisor, asked for at once\n"));
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a thread").block_on(async {
        let begun = Instant::now();
        let starts = join_all((0..count).map(|_| async {
            let mut client = Client::open(address).await;
            client.until(b"$ ").await;
            (client, begun.elapsed().as_secs_f64())
        }));
        let (mut clients, starts): (Vec<_>, Vec<_>) = starts.await.into_iter().unzip();
        report.say(&format!(
            "a prompt in each, s       first {:.1}, p50 {:.1}, last {:.1}",
            percentile(&starts, 0.0),
            percentile(&starts, 50.0),
            percentile(&starts, 100.0)
        ));
        let mut echoes = Vec::new();
        for client in &mut clients {
            client
                .type_in(b"stty raw -echo; printf 're''ady'; exec cat\r")
                .await;
            client.until(b"ready").await;
            for _ in 0..KEYS {
                echoes.push(client.echo().await.as_secs_f64() * 1e6);
            }
        }
        report.say(&format!(
            "echo, one after the other, µs   n {}, p50 {:.0}, p99 {:.0}",
            echoes.len(),
            percentile(&echoes, 50.0),
            percentile(&echoes, 99.0)
        ));
        join_all(clients.into_iter().map(Client::close)).await;
    });
    let emptied = gateway.emptied();
    gateway.stop();
    match emptied {
        Ok(()) => {
            report.say("afterwards                0 sandboxes, 0 permits");
            if write {
                report.write();
            }
            ExitCode::SUCCESS
        }
        Err(left) => {
            eprintln!("FAILED: {left} are left");
            ExitCode::FAILURE
        }
    }
}
