//! Keys that mean signals, typed into programs that want them as keys.

use belljar::config::Config;

use crate::harness::{TestGateway, visits};

visits! {
    on engine, cluster: {
        a_program_that_wants_ctrl_c_as_a_key_gets_it,
    }
}

pub async fn a_program_that_wants_ctrl_c_as_a_key_gets_it(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit_wide().await;
    let program = "import os, tty; tty.setraw(0); os.write(1, b're' + b'ady'); \
                   got = b''\nwhile len(got) < 5: got += os.read(0, 9)\nprint(got.hex())";
    let program = program.replace('\n', "\\n");
    client
        .input(format!(
            "printf \"{program}\" > k.py; python3 k.py; stty sane\r"
        ))
        .await;
    client.until("ready").await;
    for key in [b"\x03", b"\x1a", b"\x1c", b"a", b"\x03"] {
        client.input(key).await;
    }
    client.until("031a1c6103").await;
    client.until("$ ").await;
    // And where they mean signals, they still do.
    client
        .input("sh -c 'echo star\"\"ted; exec sleep 100'\r")
        .await;
    client.until("started").await;
    client.input("\x03").await;
    client.until("$ ").await;
    gateway.stop().await;
}
