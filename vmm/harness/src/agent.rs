//! The host's end of the conversation with the agent, typed.

use addr::Gva;
use monitor::MESSAGE_AREA;
use wire::{Advice, Answer, Fd, Header, OpenMode, Prot, Reply, Request, Sender, Sharing, Value};

use crate::error::HarnessError;
use crate::guest::Guest;
use crate::outcome::{Outcome, Refusal};

impl Guest {
    /// Sends a request and waits for the reply; the guest stands still again when
    /// this returns.
    ///
    /// # Errors
    /// [`HarnessError`] when the guest ends, or its agent cannot be understood.
    pub fn request(&mut self, request: &Request) -> Result<Reply, HarnessError> {
        if let Some(transcript) = self.transcript_mut() {
            transcript.push(request.clone());
        }
        self.vm_mut().write(MESSAGE_AREA, &wire::encode(request)?)?;
        self.vm_mut().run_to_doorbell()?;
        self.answered()
    }

    /// Sends several requests, which are carried out one after the other without a stop,
    /// whatever comes of each. Gives the reply to each.
    ///
    /// # Errors
    /// As [`Guest::request`]; also for requests that are not to be among others
    /// ([`Request::Several`]).
    pub fn several(&mut self, requests: &[Request]) -> Result<Vec<Reply>, HarnessError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let parts = requests.iter().map(wire::part);
        let request = Request::Several {
            requests: parts.collect::<Result<_, _>>()?,
        };
        let name = || format!("{} requests at once", requests.len());
        let replies = match self.request(&request)? {
            Reply::Done(Value::Replies(replies)) if replies.len() == requests.len() => replies,
            Reply::Rejected { reason } => {
                return Err(HarnessError::Rejected {
                    request: name(),
                    reason,
                });
            }
            reply => {
                return Err(HarnessError::Mismatched {
                    request: name(),
                    reply: Box::new(reply),
                });
            }
        };
        let replies = replies.iter().map(|bytes| wire::whole(bytes));
        Ok(replies.collect::<Result<_, _>>()?)
    }

    /// Takes the answer of the agent, which has just rung.
    pub(crate) fn answered(&mut self) -> Result<Reply, HarnessError> {
        let answer = self.read_answer()?;
        self.set_current_pid(answer.pid);
        if answer.log_has_news {
            self.note_log_news();
        }
        self.note_buffers();
        Ok(answer.reply)
    }

    /// The message that stands in the area.
    pub(crate) fn read_answer(&self) -> Result<Answer, HarnessError> {
        let mut head = [0; Header::LEN_BYTES];
        self.vm().read(MESSAGE_AREA, &mut head)?;
        let header = Header::parse(head)?;
        if header.sender != Sender::Agent {
            return Err(wire::FrameError::Payload.into());
        }
        // The header's length was checked against the area by its parser.
        let mut payload = vec![0; header.payload_len_bytes as usize];
        let start = addr::Gpa::new(MESSAGE_AREA.raw() + Header::LEN_BYTES as u64);
        self.vm().read(start, &mut payload)?;
        Ok(wire::decode(&payload)?)
    }

    fn outcome<T>(
        &mut self,
        request: &Request,
        pick: impl FnOnce(Value) -> Result<T, Value>,
    ) -> Result<Outcome<T>, HarnessError> {
        let name = || format!("{request:?}").chars().take(120).collect::<String>();
        match self.request(request)? {
            Reply::Done(value) => match pick(value) {
                Ok(value) => Ok(Ok(value)),
                Err(value) => Err(HarnessError::Mismatched {
                    request: name(),
                    reply: Box::new(Reply::Done(value)),
                }),
            },
            Reply::Errno(errno) => Ok(Err(Refusal::Errno(errno))),
            Reply::Signal(signal) => Ok(Err(Refusal::Signal(signal))),
            Reply::Rejected { reason } => Err(HarnessError::Rejected {
                request: name(),
                reason,
            }),
            reply @ Reply::Ready { .. } => Err(HarnessError::Mismatched {
                request: name(),
                reply: Box::new(reply),
            }),
        }
    }

    pub(crate) fn unit(&mut self, request: &Request) -> Result<Outcome<()>, HarnessError> {
        self.outcome(request, |value| match value {
            Value::Unit => Ok(()),
            other => Err(other),
        })
    }

    pub(crate) fn address(&mut self, request: &Request) -> Result<Outcome<Gva>, HarnessError> {
        self.outcome(request, |value| match value {
            Value::Address(address) => Ok(Gva::new(address)),
            other => Err(other),
        })
    }

    pub(crate) fn words(&mut self, request: &Request) -> Result<Outcome<Vec<u64>>, HarnessError> {
        self.outcome(request, |value| match value {
            Value::Words(words) => Ok(words),
            other => Err(other),
        })
    }

    fn bytes(&mut self, request: &Request) -> Result<Outcome<Vec<u8>>, HarnessError> {
        self.outcome(request, |value| match value {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(other),
        })
    }

    /// finit_module(2).
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn load_module(&mut self, path: &str) -> Result<Outcome<()>, HarnessError> {
        self.load_module_with(path, "")
    }

    /// finit_module(2) with parameters, `name=value` separated by spaces.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn load_module_with(
        &mut self,
        path: &str,
        parameters: &str,
    ) -> Result<Outcome<()>, HarnessError> {
        self.unit(&Request::LoadModule {
            path: path.to_owned(),
            parameters: parameters.to_owned(),
        })
    }

    /// delete_module(2).
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn unload_module(&mut self, name: &str) -> Result<Outcome<()>, HarnessError> {
        self.unit(&Request::UnloadModule {
            name: name.to_owned(),
        })
    }

    /// open(2).
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn open(&mut self, path: &str, mode: OpenMode) -> Result<Outcome<Fd>, HarnessError> {
        let request = Request::Open {
            path: path.to_owned(),
            mode,
        };
        self.outcome(&request, |value| match value {
            Value::Fd(fd) => Ok(fd),
            other => Err(other),
        })
    }

    /// close(2).
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn close(&mut self, fd: Fd) -> Result<Outcome<()>, HarnessError> {
        self.unit(&Request::Close { fd })
    }

    /// mmap(2) of a file, where the kernel likes.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn mmap(
        &mut self,
        fd: Fd,
        offset_bytes: u64,
        len_bytes: u64,
        prot: Prot,
        sharing: Sharing,
    ) -> Result<Outcome<Gva>, HarnessError> {
        self.address(&Request::Map {
            fd: Some(fd),
            fixed_at: None,
            len_bytes,
            prot,
            sharing,
            offset_bytes,
        })
    }

    /// munmap(2).
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn munmap(&mut self, gva: Gva, len_bytes: u64) -> Result<Outcome<()>, HarnessError> {
        self.unit(&Request::Unmap {
            address: gva.raw(),
            len_bytes,
        })
    }

    /// mprotect(2).
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn mprotect(
        &mut self,
        gva: Gva,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<Outcome<()>, HarnessError> {
        self.unit(&Request::Protect {
            address: gva.raw(),
            len_bytes,
            prot,
        })
    }

    /// madvise(2).
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn madvise(
        &mut self,
        gva: Gva,
        len_bytes: u64,
        advice: Advice,
    ) -> Result<Outcome<()>, HarnessError> {
        self.unit(&Request::Advise {
            address: gva.raw(),
            len_bytes,
            advice,
        })
    }

    /// mremap(2).
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn mremap(
        &mut self,
        gva: Gva,
        old_len_bytes: u64,
        new_len_bytes: u64,
        may_move: bool,
    ) -> Result<Outcome<Gva>, HarnessError> {
        self.address(&Request::Remap {
            address: gva.raw(),
            old_len_bytes,
            new_len_bytes,
            may_move,
            fixed_at: None,
        })
    }

    /// 64-bit loads, `stride_bytes` apart.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn load(
        &mut self,
        gva: Gva,
        stride_bytes: u64,
        count: u32,
    ) -> Result<Outcome<Vec<u64>>, HarnessError> {
        self.words(&Request::Load {
            address: gva.raw(),
            stride_bytes,
            count,
        })
    }

    /// 64-bit stores, `stride_bytes` apart.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn store(
        &mut self,
        gva: Gva,
        stride_bytes: u64,
        words: Vec<u64>,
    ) -> Result<Outcome<()>, HarnessError> {
        self.unit(&Request::Store {
            address: gva.raw(),
            stride_bytes,
            words,
        })
    }

    /// fork(2): from here on requests go to the child, until [`Guest::exit_child`] or
    /// [`Guest::switch_to`].
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn fork(&mut self) -> Result<Outcome<i32>, HarnessError> {
        self.outcome(&Request::Fork, |value| match value {
            Value::Pid(pid) => Ok(pid),
            other => Err(other),
        })
    }

    /// From here on requests go to the process with this pid, and what is walked are
    /// its tables.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn switch_to(&mut self, pid: i32) -> Result<Outcome<()>, HarnessError> {
        self.unit(&Request::SwitchTo { pid })
    }

    /// Ends a forked process and gives its wait status. From here on requests go to
    /// its parent.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn exit_child(&mut self, status: u8) -> Result<Outcome<i32>, HarnessError> {
        self.outcome(&Request::Exit { status }, |value| match value {
            Value::ExitStatus(status) => Ok(status),
            other => Err(other),
        })
    }

    /// A whole file of the guest, such as /proc/self/maps.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn read_file(&mut self, path: &str) -> Result<Outcome<Vec<u8>>, HarnessError> {
        let request = Request::ReadFile {
            path: path.to_owned(),
        };
        self.bytes(&request)
    }

    /// ioctl(2) with a pointer to `argument`, which is given back as the call left it.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn ioctl(
        &mut self,
        fd: Fd,
        command: u32,
        argument: Vec<u8>,
    ) -> Result<Outcome<Vec<u8>>, HarnessError> {
        let request = Request::Ioctl {
            fd,
            command,
            argument,
        };
        self.bytes(&request)
    }

    /// Entries of the guest's own /proc/self/pagemap.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn pagemap(&mut self, gva: Gva, npages: u32) -> Result<Outcome<Vec<u64>>, HarnessError> {
        self.words(&Request::Pagemap {
            address: gva.raw(),
            npages,
        })
    }

    /// The guest kernel's log, all that it still holds.
    ///
    /// # Errors
    /// As [`Guest::request`].
    pub fn kernel_log(&mut self) -> Result<Outcome<String>, HarnessError> {
        let log = self.outcome(&Request::KernelLog, |value| match value {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(other),
        })?;
        Ok(log.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}
