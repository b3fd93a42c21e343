//! client MOUNT: a hash, an AEAD, a device and an error by records, and the ioctl.
use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Result, Write};
use std::os::unix::io::AsRawFd;

const CONFIGURE: u8 = 1;
const ENCRYPT: u8 = 16;
const DECRYPT: u8 = 17;
const DIGEST: u8 = 18;

extern "C" { fn ioctl(fd: i32, request: u64, ...) -> i32; } // of the C library

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let padding = vec![0; value.len().wrapping_neg() & 3];
    [&kind.to_le_bytes()[..], &(value.len() as u16).to_le_bytes(), value, &padding].concat()
}

fn request(operation: u8, attributes: &[u8], payload: &[u8]) -> Vec<u8> {
    let size = (24 + attributes.len() + payload.len()) as u32;
    let middle = [1, operation, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // version, flags, id 1, status
    [&size.to_le_bytes()[..], &middle, &(attributes.len() as u32).to_le_bytes(), attributes, payload].concat()
}

fn number(record: &[u8], at: usize) -> usize {
    u32::from_le_bytes(record[at..at + 4].try_into().unwrap()) as usize
}

/// Status, attributes and payload of the answer.
fn ask(mut file: &File, operation: u8, attributes: &[u8], payload: &[u8]) -> Result<(usize, Vec<u8>, Vec<u8>)> {
    file.write_all(&request(operation, attributes, payload))?; // one write(2): a record is never taken in pieces
    let mut answer = vec![0; 65536];
    let size = file.read(&mut answer)?; // a program that catches signals repeats it after ErrorKind::Interrupted
    let end = 24 + number(&answer, 20);
    Ok((number(&answer, 16), answer[24..end].to_vec(), answer[end..size].to_vec()))
}
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn main() -> Result<()> {
    let mount = std::env::args().nth(1).expect("usage: client MOUNT");
    let open = |path| OpenOptions::new().read(true).write(true).open(format!("{mount}/{path}"));
    let (hash, aead, mac) = (open("crypto")?, open("crypto")?, open("devices/mac/crypto")?);
    ask(&hash, CONFIGURE, &[attribute(1, b"hash"), attribute(2, b"sha256")].concat(), b"")?;
    println!("hash {}", hex(&ask(&hash, DIGEST, b"", b"abc")?.2));
    let key: Vec<u8> = (0..16).collect();
    ask(&aead, CONFIGURE, &[attribute(1, b"aead"), attribute(2, b"gcm(aes)"), attribute(3, &key)].concat(), b"")?;
    let iv = [attribute(8, b"123456789012"), attribute(9, &6u32.to_le_bytes())].concat();
    let sealed = ask(&aead, ENCRYPT, &iv, b"headertext")?.2;
    let text = ask(&aead, DECRYPT, &iv, &[b"header", &sealed[..]].concat())?.2;
    println!("aead {}\nopened {}", hex(&sealed), String::from_utf8_lossy(&text));
    println!("device {}", hex(&ask(&mac, DIGEST, b"", b"abc")?.2));
    let (status, message, _) = ask(&aead, DECRYPT, &iv, &[b"Header", &sealed[..]].concat())?;
    println!("error {status} {}", String::from_utf8_lossy(&message[4..4 + message[2] as usize]));
    let mut buffer = request(DIGEST, b"", b"abc");
    buffer.resize(1024, 0);
    let result = unsafe { ioctl(hash.as_raw_fd(), 0xC400_63C0, buffer.as_mut_ptr()) }; // _IOWR('c', 0xC0, 1024 bytes)
    println!("ioctl {}", hex(&buffer[24..number(&buffer, 0)]));
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}
