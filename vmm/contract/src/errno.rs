//! Error numbers by their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An error number of a system call, written by its name, such as `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Errno(i32);

/// No error number is called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no error number is called {0:?}; write its name in capitals, such as EINVAL")]
pub struct UnknownErrno(String);

macro_rules! named {
    ($($name:ident)*) => {
        /// Every error number that an mmap or its driver is likely to give.
        const NAMES: &[(&str, i32)] = &[$((stringify!($name), libc::$name)),*];

        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: Self = Self(libc::$name);
            )*
        }
    };
}

named! {
    E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EAGAIN EALREADY EBADF EBADMSG EBUSY ECANCELED
    ECHILD ECONNABORTED ECONNREFUSED ECONNRESET EDEADLK EDOM EEXIST EFAULT EFBIG
    EHOSTUNREACH EHWPOISON EILSEQ EINPROGRESS EINTR EINVAL EIO EISDIR EKEYEXPIRED EKEYREJECTED
    EKEYREVOKED EMEDIUMTYPE EMFILE EMLINK EMSGSIZE ENAMETOOLONG ENETDOWN ENETUNREACH ENFILE
    ENOBUFS ENODATA ENODEV ENOENT ENOEXEC ENOKEY ENOLCK ENOLINK ENOMEDIUM ENOMEM ENOMSG ENONET
    ENOPROTOOPT ENOSPC ENOSR ENOSTR ENOSYS ENOTBLK ENOTCONN ENOTDIR ENOTEMPTY ENOTRECOVERABLE
    ENOTSOCK ENOTTY ENOTUNIQ ENXIO EOPNOTSUPP EOVERFLOW EOWNERDEAD EPERM EPIPE EPROTO
    EPROTONOSUPPORT ERANGE EREMOTEIO EROFS ESHUTDOWN ESPIPE ESRCH ESTALE ETIME ETIMEDOUT ETXTBSY
    EUSERS EXDEV
}

impl Errno {
    /// Its number.
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl FromStr for Errno {
    type Err = UnknownErrno;

    fn from_str(text: &str) -> Result<Self, UnknownErrno> {
        let entry = NAMES.iter().find(|(name, _)| *name == text);
        entry
            .map(|(_, number)| Self(*number))
            .ok_or_else(|| UnknownErrno(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for Errno {
    type Error = UnknownErrno;

    fn try_from(text: String) -> Result<Self, UnknownErrno> {
        text.parse()
    }
}

impl From<Errno> for String {
    fn from(errno: Errno) -> Self {
        errno.to_string()
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.pad(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_numbers() {
        for (name, number) in NAMES {
            let errno: Errno = name.parse().expect("known");
            assert_eq!((errno.raw(), errno.to_string().as_str()), (*number, *name));
        }
        assert!("einval".parse::<Errno>().is_err());
        assert!("22".parse::<Errno>().is_err());
    }
}
