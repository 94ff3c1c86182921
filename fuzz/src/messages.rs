//! The link's messages, both directions.

use std::fmt::Debug;

use belljar_link::frame::Frame;
use belljar_link::message::files::{FileInfo, Page, Unpacked, UploadCommand, WatchEvent};
use belljar_link::message::port::SandboxStats;
use belljar_link::message::process::{
    Following, InputCommand, ProcessInfo, ProcessMessage, ProcessStarted,
};
use belljar_link::message::{
    Alive, Attached, ControlCommand, Done, InputReady, Inspection, Reply, Request, Size,
    TerminalCommand, TerminalEvent, TerminalOpened, Welcome,
};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message is refused or understood; what is understood is said again in the same sense.
pub fn hold(bytes: &[u8]) {
    let frame = Frame::Message(Bytes::copy_from_slice(bytes));
    // From a gateway.
    same_sense::<Request>(&frame);
    same_sense::<ControlCommand>(&frame);
    same_sense::<InputCommand>(&frame);
    same_sense::<UploadCommand>(&frame);
    if let Some(TerminalCommand::Resize(size)) = same_sense::<TerminalCommand>(&frame) {
        let clamped = size.clamped();
        assert!((Size::MIN.cols..=Size::MAX.cols).contains(&clamped.cols));
        assert!((Size::MIN.rows..=Size::MAX.rows).contains(&clamped.rows));
    }
    // From an agent.
    same_sense::<Reply<Welcome>>(&frame);
    same_sense::<Reply<Alive>>(&frame);
    same_sense::<Reply<Inspection>>(&frame);
    same_sense::<Reply<TerminalOpened>>(&frame);
    same_sense::<Reply<Attached>>(&frame);
    same_sense::<Reply<InputReady>>(&frame);
    same_sense::<TerminalEvent>(&frame);
    same_sense::<Reply<Done>>(&frame);
    same_sense::<Reply<ProcessStarted>>(&frame);
    same_sense::<Reply<Page<ProcessInfo>>>(&frame);
    same_sense::<Reply<ProcessInfo>>(&frame);
    same_sense::<Reply<Following>>(&frame);
    same_sense::<ProcessMessage>(&frame);
    same_sense::<Reply<FileInfo>>(&frame);
    same_sense::<Reply<Page<FileInfo>>>(&frame);
    same_sense::<Reply<Unpacked>>(&frame);
    same_sense::<WatchEvent>(&frame);
    same_sense::<Reply<SandboxStats>>(&frame);
}

fn same_sense<T>(frame: &Frame) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let understood = frame.parse::<T>().ok()?;
    // Saying it may take more room than it took, so it may be too long to be said.
    if let Ok(said) = Frame::message(&understood) {
        let again = said.parse::<T>().expect("what we say, we understand");
        assert_eq!(again, understood);
    }
    Some(understood)
}
