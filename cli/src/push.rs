//! `tidegate push`: one push through control's gRPC API.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use tidegate_proto::v1::push_service_client::PushServiceClient;
use tidegate_proto::v1::{MessageClass, Priority, PushMessage, PushRequest, PushStatus};

#[derive(clap::Args)]
pub struct PushArgs {
    /// Target stream, `u:<uid>` or `g:<gid>`; may be given more than once.
    #[arg(long, required_unless_present = "all")]
    to: Vec<String>,
    /// To everybody.
    #[arg(long)]
    all: bool,
    #[arg(long, required_unless_present = "file")]
    content: Option<String>,
    /// Takes the content from a file, `-` is standard input; not UTF-8: sent as binary.
    #[arg(long, conflicts_with = "content")]
    file: Option<PathBuf>,
    #[arg(long, default_value = "text")]
    r#type: String,
    #[arg(long)]
    title: Option<String>,
    #[arg(long, value_enum, default_value = "durable")]
    class: Class,
    #[arg(long, value_enum)]
    priority: Option<Level>,
    /// Idempotency key.
    #[arg(long)]
    message_id: Option<String>,
    /// Sender that recipients see.
    #[arg(long)]
    from: Option<String>,
    /// Seconds after which it is not delivered any more.
    #[arg(long, default_value_t = 0)]
    ttl_s: u32,
    /// Control's gRPC listener.
    #[arg(long, env = "TIDEGATE_GRPC_ADDR", default_value = "127.0.0.1:9090")]
    grpc_addr: String,
    /// File with the service token.
    #[arg(long, env = "TIDEGATE_SERVICE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Class {
    Durable,
    Ephemeral,
}

#[derive(Clone, Copy, ValueEnum)]
enum Level {
    High,
    Normal,
    Low,
}

pub fn run(args: PushArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(push(args))
}

async fn push(args: PushArgs) -> anyhow::Result<()> {
    let endpoint = format!("http://{}", args.grpc_addr);
    let mut client =
        PushServiceClient::connect(endpoint).await.with_context(|| format!("cannot reach {}", args.grpc_addr))?;
    let mut call = tonic::Request::new(request(&args)?);
    if let Some(file) = &args.token_file {
        let token = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let value = format!("Bearer {}", token.trim()).parse().context("the token is not a header value")?;
        call.metadata_mut().insert("authorization", value);
    }
    let answer = match client.push(call).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => bail!("refused: {} {}", status.code(), status.message()),
    };
    let mut failed = 0;
    for result in &answer.results {
        match (&result.error, result.status()) {
            (Some(error), _) => {
                failed += 1;
                eprintln!("{}: {} {}", result.to, error.code, error.message);
            }
            (None, PushStatus::Queued) => println!("{} queued, message {}", result.to, result.message_id),
            (None, _) => {
                let seq = result.seq.map_or_else(|| "no seq".to_owned(), |seq| format!("seq {seq}"));
                let repeated = if result.duplicate { ", a duplicate" } else { "" };
                println!("{} {seq}, message {}{repeated}", result.to, result.message_id);
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} targets failed", answer.results.len());
    }
    Ok(())
}

fn request(args: &PushArgs) -> anyhow::Result<PushRequest> {
    let (content, content_bytes) = match (&args.content, &args.file) {
        (Some(text), _) => (text.clone(), Vec::new()),
        (None, Some(file)) => match String::from_utf8(read(file)?) {
            Ok(text) => (text, Vec::new()),
            Err(binary) => (String::new(), binary.into_bytes()),
        },
        (None, None) => bail!("--content or --file is needed"),
    };
    let message = PushMessage {
        r#type: args.r#type.clone(),
        content,
        content_bytes: content_bytes.into(),
        title: args.title.clone().unwrap_or_default(),
        ..PushMessage::default()
    };
    let class = match args.class {
        Class::Durable => MessageClass::Durable,
        Class::Ephemeral => MessageClass::Ephemeral,
    };
    let priority = match args.priority {
        None => Priority::Unspecified,
        Some(Level::High) => Priority::High,
        Some(Level::Normal) => Priority::Normal,
        Some(Level::Low) => Priority::Low,
    };
    Ok(PushRequest {
        to: args.to.clone(),
        all: args.all,
        message: Some(message),
        message_id: args.message_id.clone().unwrap_or_default(),
        class: class.into(),
        priority: priority.into(),
        ttl_s: args.ttl_s,
        from: args.from.clone().unwrap_or_default(),
        ..PushRequest::default()
    })
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(bytes)
}
