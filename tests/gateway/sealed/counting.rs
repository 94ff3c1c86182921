//! Visitors who notice whether anything is lost.

use super::serve::{Home, Served};
use crate::harness::{Client, Heard, strip};

/// A visitor whose program counts, and who checks that no number is missing or comes twice.
pub struct Counting {
    pub client: Client,
    pub next: u64,
}

impl Counting {
    pub async fn begin(gateway: &Served<impl Home>) -> Self {
        let mut client = gateway.visit().await;
        // Without a process for each number: thirty of those would fill two cores.
        let count = "for ((i = 0; ; i++)); do echo n $i; read -t 0.5; done\r";
        client.input(count).await;
        // Until then a lost connection may lose the command.
        Self { client, next: 0 }.until(0).await
    }

    /// Read one more line; false when the connection is gone.
    pub async fn line(&mut self) -> bool {
        loop {
            if let Some(end) = self.client.output.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.client.output.drain(..=end).collect();
                let line = strip(&String::from_utf8_lossy(&line));
                // The first is the echo of the command.
                if let Some(number) = line.trim().strip_prefix("n ") {
                    assert_eq!(number.parse(), Ok(self.next), "{line:?}");
                    self.next += 1;
                }
                return true;
            }
            match self.client.hear().await {
                Heard::Output(bytes) => self.client.output.extend(bytes),
                Heard::Told(told) => self.client.told.push(told),
                Heard::Closed(_) => return false,
            }
        }
    }

    pub async fn until(mut self, last: u64) -> Self {
        while self.next <= last {
            assert!(self.line().await, "{:?}", self.client.told);
        }
        self
    }

    pub async fn until_cut(mut self) -> Self {
        while self.line().await {}
        self
    }

    /// Go on at another gateway from the last whole line.
    pub async fn resume(&mut self, gateway: &Served<impl Home>) {
        let seen = self.client.offset - self.client.output.len() as u64;
        let (session, token) = (&self.client.session, &self.client.token);
        let mut client = gateway.resume(session, token, seen).await;
        client.ready().await;
        self.client = client;
    }
}
