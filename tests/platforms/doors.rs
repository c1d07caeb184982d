//! Starting where one should not, and coming in where one may not.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wade::engine::Outcome;

use super::yard::{GOOD, Rollout, SERVICE, SHELL, Yard, free_port};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// `wade serve` that is expected to end by itself: exit code and what it said.
async fn refused(yard: &Yard) -> (i32, String) {
    let config = yard.path("wade.yaml").display().to_string();
    let (code, out, err) = yard.wade(&["serve", "--config", &config]).await;
    (code, format!("{out}{err}"))
}

#[tokio::test]
async fn a_second_daemon_on_the_same_folder_refuses_and_names_the_first() {
    let mut yard = Yard::new(&Rollout::default());
    let client = yard.start().await;
    let (code, said) = refused(&yard).await;
    assert_eq!(code, 7, "{said}");
    assert!(
        said.contains("is in use by wade (pid") && said.contains("use another folder"),
        "{said}"
    );
    assert!(client.rollouts().await.is_ok(), "the first one is not disturbed");
    let mode = fs::metadata(yard.socket()).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_services_port_in_use_ends_the_start_with_a_sentence() {
    let yard = Yard::new(&Rollout::default());
    let _other = TcpListener::bind(yard.address()).expect("it was free");
    let (code, said) = refused(&yard).await;
    let address = yard.address().to_string();
    assert!(
        code == 7 && said.contains(&address) && said.contains("in use") && said.contains("choose another"),
        "{code}: {said}"
    );
}

#[tokio::test]
async fn what_cannot_run_is_said_before_or_instead_of_any_traffic() {
    let mut yard = Yard::new(&Rollout::default());
    let good = fs::read_to_string(yard.path("rollouts/hello.yaml")).expect("just written");
    let client = yard.start().await;
    let command = good.replace(SHELL, "/nowhere/hello");
    yard.write("rollouts/hello.yaml", &command);
    let (code, _, said) = yard.wade(&["deploy", SERVICE, "--version", "1.0.0"]).await;
    assert!(
        code == 2 && said.contains("/nowhere/hello does not exist") && said.contains("correct the command"),
        "{code}: {said}"
    );

    yard.write(
        "rollouts/hello.yaml",
        &good.replace("      instances:", "      workdir: /nowhere\n      instances:"),
    );
    let (code, out, said) = yard.wade(&["deploy", SERVICE, "--version", "1.0.0"]).await;
    assert!(
        code == 5 && format!("{out}{said}").contains("the working directory /nowhere does not exist"),
        "{code}: {out}{said}"
    );

    fs::rename(yard.path("rollouts"), yard.path("elsewhere")).expect("our own folder");
    let (code, _, said) = yard.wade(&["deploy", SERVICE, "--version", "1.0.0"]).await;
    assert!(
        code == 2 && said.contains("rollouts") && said.contains("create the folder"),
        "{code}: {said}"
    );
    fs::rename(yard.path("elsewhere"), yard.path("rollouts")).expect("our own folder");

    yard.write("rollouts/hello.yaml", &good);
    let record = yard.release(&client, "1.0.0", GOOD).await;
    assert_eq!(
        record.state.outcome(),
        Some(&Outcome::FirstDeploy),
        "the same daemon goes on with the corrected file"
    );
}

#[tokio::test]
async fn a_daemon_without_a_rollouts_folder_starts_and_says_so() {
    let mut yard = Yard::new(&Rollout::default());
    fs::remove_dir_all(yard.path("rollouts")).expect("our own folder");
    let client = yard.start().await;
    assert_eq!(client.rollouts().await, Ok(Vec::new()));
    assert!(yard.log().contains("create the folder"), "{}", yard.log());
}

#[tokio::test]
async fn a_fault_in_one_file_does_not_keep_the_others_from_serving() {
    let mut yard = Yard::new(&Rollout::default());
    yard.write(
        "rollouts/broken.yaml",
        "apiVersion: wade.dev/v1alpha1\nkind: Rollout\nmetadata: {name: broken}\nspec: {wurkload: 1}\n",
    );
    let client = yard.start().await;
    let record = yard.release(&client, "1.0.0", GOOD).await;
    assert_eq!(record.state.outcome(), Some(&Outcome::FirstDeploy));
    assert!(yard.log().contains("wurkload"), "{}", yard.log());
    let (code, _, said) = yard.wade(&["deploy", "broken", "--version", "1.0.0"]).await;
    assert!(code == 2 && said.contains("wurkload"), "{code}: {said}");
}

/// One request over plain HTTP: the status.
async fn ask(address: SocketAddr, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET /v1/rollouts HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("it answers");
    let text = String::from_utf8_lossy(&answer);
    text.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status: {text}"))
}

#[tokio::test]
async fn over_http_only_the_token_from_this_machine_and_no_foreign_page_comes_in() {
    let mut yard = Yard::new(&Rollout::default());
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = format!(
        "apiVersion: wade.dev/v1alpha1\nkind: Config\ndata: data\nhttp: {{listen: '{listen}', tokenFile: token}}\n"
    );
    yard.write("wade.yaml", &config);
    yard.write("token", TOKEN);
    let mode =
        |bits: u32| fs::set_permissions(yard.path("token"), fs::Permissions::from_mode(bits)).expect("our own file");
    mode(0o644);
    let (code, said) = refused(&yard).await;
    assert!(code == 2 && said.contains("chmod 600"), "{code}: {said}");
    mode(0o600);
    {
        let _other = TcpListener::bind(listen).expect("it was free");
        let (code, said) = refused(&yard).await;
        assert!(
            code == 7 && said.contains(&listen.to_string()) && said.contains("choose a free address"),
            "{code}: {said}"
        );
    }
    yard.start().await;
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let host = format!("Host: {listen}\r\n");
    let own = format!("Origin: http://{listen}\r\n");
    let cases = [
        (format!("{host}{bearer}"), 200),
        (format!("{host}{own}{bearer}"), 200),
        (host.clone(), 401),
        (format!("{host}Authorization: Bearer 0123456789abcdef\r\n"), 401),
        (format!("Host: wade.example\r\n{bearer}"), 403),
        (format!("{host}Origin: https://evil.example\r\n{bearer}"), 403),
    ];
    for (headers, expected) in cases {
        assert_eq!(ask(listen, &headers).await, expected, "{headers}");
    }
}
