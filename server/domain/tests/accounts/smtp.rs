//! Handing mail to an SMTP server: one that writes down what it is told.

use super::*;
use domain::settings::Settings;
use domain::{Domain, Inner, jobs, mail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Talks to one client and gives the letter.
async fn take_one(listener: &TcpListener, accept: bool) -> String {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    say(&mut stream, "220 ready").await;
    let mut letter = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap() == 0 {
            return letter;
        }
        match line
            .split([' ', ':', '\r'])
            .next()
            .unwrap()
            .to_ascii_uppercase()
            .as_str()
        {
            "EHLO" => say(&mut stream, "250 mail.test").await,
            "RCPT" if !accept => say(&mut stream, "451 try later").await,
            "DATA" => {
                say(&mut stream, "354 go on").await;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    if line == ".\r\n" {
                        break;
                    }
                    letter.push_str(&line);
                }
                say(&mut stream, "250 taken").await;
            }
            "QUIT" => {
                say(&mut stream, "221 bye").await;
                return letter;
            }
            _ => say(&mut stream, "250 ok").await,
        }
    }
}

async fn say(stream: &mut BufReader<TcpStream>, text: &str) {
    stream
        .get_mut()
        .write_all(format!("{text}\r\n").as_bytes())
        .await
        .unwrap();
}

fn with_smtp(world: &World, port: u16) -> Domain {
    let domain = &world.domain;
    Domain::new(Inner {
        pool: domain.pool.clone(),
        clock: domain.clock.clone(),
        random: domain.random.clone(),
        payments: domain.payments.clone(),
        settings: Settings {
            smtp_url: Some(secret(&format!("smtp://127.0.0.1:{port}"))),
            ..domain.settings.clone()
        },
    })
}

#[tokio::test]
async fn a_letter_refused_for_now_is_sent_later_once_and_then_forgotten() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let domain = with_smtp(&world, listener.local_addr().unwrap().port());
    members::sign_up(&domain, None, request("mara@lumen.dev"))
        .await
        .unwrap();
    let worker = jobs::Registry::default().with::<mail::SendMail>();

    let (_, ran) = tokio::join!(take_one(&listener, false), worker.run_one(&domain));
    assert!(ran.unwrap());
    assert_eq!(
        world
            .count("SELECT count(*) FROM mails WHERE sent_at IS NULL AND body_text <> ''")
            .await,
        1
    );

    world.clock.advance_s(2);
    let (letter, ran) = tokio::join!(take_one(&listener, true), worker.run_one(&domain));
    assert!(ran.unwrap());
    for part in [
        "To: mara@lumen.dev",
        "Subject: Confirm your e-mail address",
        "Message-ID: <turnpike-mail-1@atlas.example>",
        "Content-Type: text/plain",
        "Content-Type: text/html",
    ] {
        assert!(letter.contains(part), "{part} is not in {letter}");
    }
    assert_eq!(
        world.count("SELECT count(*) FROM jobs WHERE kind = 'mail.send'").await,
        0
    );
    // The body held a link that confirms the address.
    assert_eq!(
        world
            .count("SELECT count(*) FROM mails WHERE sent_at IS NOT NULL AND body_text || body_html = ''")
            .await,
        1
    );
}
