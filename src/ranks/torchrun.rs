//! Ranks that torchrun, or who sets its variables, has started: which one this is, and how they find each other.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Result, invalid};

/// One of several processes by the variables of torchrun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) rank: usize,
    pub(super) size: usize,
    /// The machine of rank 0.
    host: String,
    /// Where rank 0 tells the others how to join: the one behind `MASTER_PORT`, at which torchrun itself listens.
    port: u16,
}

/// How long ranks wait for each other to start.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// What a rank says to rank 0 first: a stranger does not.
const GREETING: &[u8; 8] = b"llmbs ok";

impl Place {
    /// Which process this is by the variables that `variable` gives.
    ///
    /// # Errors
    /// Variables that are missing, or do not fit each other.
    pub(super) fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name| match variable(name) {
            Some(text) => match text.trim().parse::<usize>() {
                Ok(number) => Ok(number),
                Err(_) => invalid!("{name} = {text:?} is to be a number, as torchrun sets it"),
            },
            None => invalid!("{name} is not set; torchrun sets it"),
        };
        let (rank, size) = (number("RANK")?, number("WORLD_SIZE")?);
        if rank >= size {
            invalid!("RANK = {rank} is not below WORLD_SIZE = {size}");
        }
        let Some(host) = variable("MASTER_ADDR") else {
            invalid!("MASTER_ADDR is not set, the machine of rank 0; torchrun sets it");
        };
        let Ok(port) = u16::try_from(number("MASTER_PORT")? + 1) else {
            invalid!("MASTER_PORT is to be a port that has another behind it");
        };
        Ok(Self { rank, size, host, port })
    }

    /// What rank 0 has to say, on all of them.
    ///
    /// # Errors
    /// A rank that does not come, or a rank 0 that is not there.
    pub(super) fn told_by_first<const N: usize>(&self, own: [u8; N]) -> Result<[u8; N]> {
        if self.rank == 0 { self.tell(own) } else { self.listen() }
    }

    fn tell<const N: usize>(&self, said: [u8; N]) -> Result<[u8; N]> {
        let start = Instant::now();
        let listener = TcpListener::bind(("0.0.0.0", self.port));
        let listener = listener.and_then(|l| l.set_nonblocking(true).map(|()| l));
        let listener = match listener {
            Ok(listener) => listener,
            Err(e) => {
                invalid!("rank 0 cannot listen at port {}, behind MASTER_PORT: {e}", self.port)
            }
        };
        let mut missing = self.size - 1;
        while missing > 0 {
            match listener.accept() {
                Ok((stream, _)) => missing -= usize::from(answer(stream, &said).is_ok()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(20)),
                Err(e) => invalid!("rank 0 cannot hear the others at port {}: {e}", self.port),
            }
            if missing > 0 && start.elapsed() > PATIENCE {
                invalid!("{missing} of {} ranks did not come", self.size);
            }
        }
        Ok(said)
    }

    fn listen<const N: usize>(&self) -> Result<[u8; N]> {
        let start = Instant::now();
        loop {
            match self.ask() {
                Ok(said) => return Ok(said),
                Err(e) if start.elapsed() > PATIENCE => {
                    let Self { rank, host, port, .. } = self;
                    invalid!("rank {rank} does not reach rank 0 at {host}:{port}: {e}");
                }
                Err(_) => sleep(Duration::from_millis(100)),
            }
        }
    }

    fn ask<const N: usize>(&self) -> std::io::Result<[u8; N]> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(GREETING)?;
        let mut said = [0; N];
        stream.read_exact(&mut said)?;
        Ok(said)
    }
}

/// Tells a rank `said`, once it has greeted.
fn answer(mut stream: TcpStream, said: &[u8]) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting)?;
    if greeting != *GREETING {
        return Err(ErrorKind::InvalidData.into());
    }
    stream.write_all(said)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::thread;

    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Place> {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        Place::of(|name| variables.get(name).map(ToString::to_string))
    }

    #[test]
    fn a_place_is_what_the_variables_say() {
        let all =
            [("RANK", "1"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "29500")];
        let expected = Place { rank: 1, size: 4, host: "a".into(), port: 29501 };
        assert_eq!(place(&all).unwrap(), expected);
        for (name, value, expected) in [
            ("RANK", "4", "not below WORLD_SIZE = 4"),
            ("RANK", "one", "RANK = \"one\""),
            ("MASTER_PORT", "65535", "MASTER_PORT"),
            ("MASTER_PORT", "", "MASTER_PORT = \"\""),
        ] {
            let mut wrong: HashMap<&str, &str> = all.into();
            wrong.insert(name, value);
            let wrong: Vec<(&str, &str)> = wrong.into_iter().collect();
            let error = place(&wrong).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(place(&all[..2]).unwrap_err().to_string().contains("MASTER_ADDR"));
    }

    #[test]
    fn all_hear_what_rank_0_says_and_a_stranger_takes_nobodys_place() {
        // A port that is free now.
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let of = |rank| Place { rank, size: 3, host: "127.0.0.1".into(), port };
        let heard = thread::scope(|scope| {
            let stranger = scope.spawn(|| {
                let mut stream = loop {
                    if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                        break stream;
                    }
                };
                stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            });
            let first = scope.spawn(|| of(0).told_by_first([7; 128]).unwrap());
            stranger.join().unwrap();
            let ranks = [1, 2].map(|rank| scope.spawn(move || of(rank).told_by_first([0; 128])));
            let mut heard = vec![first.join().unwrap()];
            heard.extend(ranks.map(|rank| rank.join().unwrap().unwrap()));
            heard
        });
        assert_eq!(heard, [[7; 128]; 3]);
    }
}
