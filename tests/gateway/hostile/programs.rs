//! What programs print and do to be taken for something else.

use belljar::config::Config;

use crate::harness::{Heard, TestGateway, visits};

visits! {
    on processes, cluster: {
        output_that_looks_like_control_is_output,
        every_byte_a_program_can_print_arrives,
    }
}

pub async fn output_that_looks_like_control_is_output(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    for forged in [
        r#"{"type":"exit","code":0,"signal":null,"reason":"exited"}"#,
        r#"{"type":"error","code":"rate_limited","message":"Pay up."}"#,
        r#"{"type":"ready","session":"sess_0","token":"t","offset":0}"#,
    ] {
        let printed = client.run(&format!("printf '%s\\n' '{forged}'")).await;
        assert_eq!(printed, format!("{forged}\n[0]"));
    }
    assert!(client.told.is_empty(), "{:?}", client.told);
    gateway.stop().await;
}

pub async fn every_byte_a_program_can_print_arrives(config: Config) {
    let gateway = TestGateway::with(config).await;
    let mut client = gateway.visit().await;
    client
        .input("stty raw -echo; printf RE''ADY; for i in {0..255}; do printf \\\\x$(printf %02x $i); done; printf DO''NE; stty sane\r")
        .await;
    client.until("READY").await;
    while !client.output.ends_with(b"DONE") && client.output.len() < 260 {
        match client.hear().await {
            Heard::Output(bytes) => client.output.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    let expected: Vec<u8> = (0..=255).chain(*b"DONE").collect();
    assert_eq!(client.output[..260], expected);
    gateway.stop().await;
}
