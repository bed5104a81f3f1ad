//! HTTP/1.1 through the router: where requests go, what becomes of their heads, how messages and
//! connections end.

mod connections;
mod headers;
mod leaving;
mod messages;
mod redirect;
mod routing;
mod target;
mod trailers;
mod unread;
