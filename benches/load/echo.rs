//! The pods that speak WebSocket: whatever comes goes back.

use tokio::net::{TcpListener, TcpStream};

use crate::{Outcome, websocket};

/// Serves on every address, for good.
pub(crate) async fn serve(addresses: &[&str]) -> Outcome<()> {
    let mut servers = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await?;
        servers.push(tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away is no news here.
                tokio::task::spawn_local(async move { drop(one(stream).await) });
            }
        }));
    }
    for server in servers {
        server.await?;
    }
    Ok(())
}

async fn one(mut stream: TcpStream) -> Outcome<()> {
    websocket::accept(&mut stream).await?;
    loop {
        websocket::echo(&mut stream).await?;
    }
}
