//! Messages: what decodes is the message that it encodes to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fmt::Debug;
use wire::{Answer, Header, Message, Request, decode, encode};

fn round_trip<T: Message + PartialEq + Debug>(payload: &[u8]) {
    let Ok(message) = decode::<T>(payload) else {
        return;
    };
    let frame = encode(&message).expect("what came through the area fits it");
    let (head, payload) = frame.split_first_chunk().expect("a header");
    let header = Header::parse(*head).expect("its own");
    assert_eq!(header.payload_len_bytes as usize, payload.len());
    assert_eq!(header.sender, T::SENDER);
    assert_eq!(decode::<T>(payload).as_ref(), Ok(&message));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((head, payload)) = bytes.split_first_chunk::<{ Header::LEN_BYTES }>() else {
        return;
    };
    let _ = Header::parse(*head);
    round_trip::<Request>(payload);
    round_trip::<Answer>(payload);
});
