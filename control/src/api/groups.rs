//! Groups and their members.
//!
//! A user may see the members of a group that they are in, or that is open; a backend sees all.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use tidegate_control_core::domain::{ErrorCode, Gid, Refusal, Role, Uid};
use tidegate_control_core::partition::{Command, Reply, limits};
use tidegate_control_core::ports::{Group, Member, StoreReader};

use super::Api;
use super::auth::Caller;
use super::error::{ApiError, ErrorObject, object};
use super::extract::{Fields, JsonBody, Names, Params, name};
use super::streams::unexpected;
use crate::message::check_line;

/// Members named in one request.
pub const MEMBERS_PER_REQUEST_MAX: usize = limits::GROUP_MEMBERS_MAX;
/// Members in one answer.
pub const MEMBERS_PAGE_MAX: usize = 1_000;
/// Groups in one answer.
pub const GROUPS_MAX: usize = 500;
/// Random bytes of a gid that we make: unguessable (S4).
const GID_BYTES: usize = 15;

#[derive(Serialize)]
struct GroupBody<'a> {
    gid: &'a str,
    stream: String,
    epoch: String,
    name: &'a str,
    mode: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    creator: &'a str,
    created_ms: i64,
}

impl<'a> From<&'a Group> for GroupBody<'a> {
    fn from(group: &'a Group) -> Self {
        GroupBody {
            gid: group.gid.as_str(),
            stream: group.gid.stream().to_string(),
            epoch: group.epoch.to_string(),
            name: &group.name,
            mode: if group.open { "open" } else { "members" },
            creator: &group.creator,
            created_ms: group.created.0,
        }
    }
}

/// `POST /api/v1/groups` with `{"gid"?,"name","mode":"members|open","members":[…]}` → 201.
pub async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let mut fields = Fields::parse(&body)?;
    let gid: Option<String> = fields.take("gid", "a string");
    let name: Box<str> = fields.take("name", "a string").unwrap_or_default();
    let open = fields.word("mode", &[("members", false), ("open", true)]).unwrap_or(false);
    let members = uids(&mut fields, "members");
    let gid = match gid {
        None => Some(random_gid()?),
        Some(text) => text.parse().ok(),
    };
    if gid.is_none() {
        fields.problem("gid", "is not a valid name");
    }
    if let Err(problem) = check_line(&name, limits::GROUP_NAME_BYTES_MAX) {
        fields.problem("name", problem);
    }
    let problems = fields.into_problems();
    let (Some(gid), true) = (gid, problems.is_empty()) else { return Err(ApiError::problems(problems)) };
    let command = Command::CreateGroup { gid, name, open, creator: caller.uid(), members };
    match api.dispatch.ask(command, api.patience()).await? {
        Reply::Group(group) => Ok((StatusCode::CREATED, Json(GroupBody::from(&group))).into_response()),
        other => Err(unexpected(&other)),
    }
}

/// `GET /api/v1/groups`: those that the user is a member of, the one with the newest message first.
pub async fn list(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, ApiError> {
    let Some(uid) = caller.uid() else {
        return Err(ApiError::problem("uid", "says whose groups: give `?uid=` beside a service token"));
    };
    let groups = api.look_up(move |reader| {
        let gids = reader.groups_of(&uid, GROUPS_MAX)?;
        let groups = gids.iter().map(|gid| reader.group(gid));
        Ok(groups.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect::<Vec<Group>>())
    });
    let groups = groups.await?;
    let listed: Vec<GroupBody<'_>> = groups.iter().map(GroupBody::from).collect();
    Ok(Json(json!({ "groups": listed })).into_response())
}

#[derive(Serialize)]
struct MemberBody<'a> {
    uid: &'a str,
    role: &'static str,
    joined_seq: u64,
}

impl<'a> From<&'a Member> for MemberBody<'a> {
    fn from(member: &'a Member) -> Self {
        let role = match member.role {
            Role::Owner => "owner",
            Role::Admin => "admin",
            Role::Member => "member",
        };
        MemberBody { uid: member.uid.as_str(), role, joined_seq: member.joined.0 }
    }
}

/// `GET /api/v1/groups/{gid}/members?after=&limit=`, ordered by uid; `next_after` is absent at the end.
pub async fn members(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Names(gid): Names<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let gid: Gid = name("gid", &gid)?;
    let after: Option<Uid> = params.text("after").map(|after| name("after", after)).transpose()?;
    let limit = params.number("limit")?.unwrap_or(MEMBERS_PAGE_MAX).clamp(1, MEMBERS_PAGE_MAX);
    let found = api.look_up(move |reader| {
        if !may_see(reader, &gid, &caller)? {
            return Ok(None);
        }
        // One more than asked for tells whether there is a next page.
        reader.members(&gid, after.as_ref(), limit + 1).map(Some)
    });
    // Whether a group exists is not told to those who may not see it.
    let mut found = found.await?.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no such group"))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let listed: Vec<MemberBody<'_>> = found.iter().map(MemberBody::from).collect();
    let mut body = json!({ "members": listed });
    if let (true, Some(last)) = (more, found.last()) {
        body["next_after"] = last.uid.as_str().into();
    }
    Ok(Json(body).into_response())
}

fn may_see(
    reader: &dyn StoreReader,
    gid: &Gid,
    caller: &Caller,
) -> Result<bool, tidegate_control_core::ports::StoreError> {
    let Some(group) = reader.group(gid)?.filter(|group| !group.dismissed) else { return Ok(false) };
    match caller {
        Caller::Backend => Ok(true),
        Caller::User(_) if group.open => Ok(true),
        Caller::User(uid) => Ok(reader.member(gid, uid)?.is_some_and(|member| member.left.is_none())),
    }
}

/// What became of one uid of a request.
#[derive(Serialize)]
struct MemberResult<'a> {
    uid: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorObject<'a>>,
}

/// `POST /api/v1/groups/{gid}/members` with `{"uids":[…]}`, or `{}` to join oneself.
///
/// 200 with a result for each uid; if every one was refused, the first one's error.
pub async fn add(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Names(gid): Names<String>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let gid: Gid = name("gid", &gid)?;
    let mut fields = Fields::parse_optional(&body)?;
    let mut named = uids(&mut fields, "uids");
    fields.finish()?;
    let by = caller.uid();
    if named.is_empty() {
        let Some(uid) = &by else { return Err(ApiError::problem("uids", "is needed beside a service token")) };
        named.push(uid.clone());
    }
    let command = |uid: &Uid| Command::AddMember { gid: gid.clone(), uid: uid.clone(), by: by.clone() };
    let pending = api.dispatch.submit(named.iter().map(command).collect())?;
    let answers = pending.within(api.patience()).await?;
    if answers.iter().all(Result::is_err)
        && let Some(Err(refusal)) = answers.first()
    {
        return Err(refusal.clone().into());
    }
    let results: Vec<MemberResult<'_>> =
        named.iter().zip(&answers).map(|(uid, answer)| member_result(uid, answer)).collect();
    Ok(Json(json!({ "results": results })).into_response())
}

fn member_result<'a>(uid: &'a Uid, answer: &'a Result<Reply, Refusal>) -> MemberResult<'a> {
    let uid = uid.as_str();
    match answer {
        Ok(Reply::Done { seq }) => MemberResult { uid, status: "ok", seq: seq.map(|seq| seq.0), error: None },
        Ok(_) => MemberResult { uid, status: "ok", seq: None, error: None },
        Err(refusal) => MemberResult { uid, status: "error", seq: None, error: Some(object(refusal, &[])) },
    }
}

/// `DELETE /api/v1/groups/{gid}/members/{uid}`: to leave, or to remove somebody.
pub async fn remove(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Names((gid, uid)): Names<(String, String)>,
) -> Result<Response, ApiError> {
    let (gid, uid) = (name("gid", &gid)?, name("uid", &uid)?);
    change(&api, Command::RemoveMember { gid, uid, by: caller.uid() }).await
}

/// `DELETE /api/v1/groups/{gid}`.
pub async fn dismiss(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Names(gid): Names<String>,
) -> Result<Response, ApiError> {
    let gid = name("gid", &gid)?;
    change(&api, Command::DismissGroup { gid, by: caller.uid() }).await
}

async fn change(api: &Api, command: Command) -> Result<Response, ApiError> {
    match api.dispatch.ask(command, api.patience()).await? {
        Reply::Done { seq: Some(seq) } => Ok(Json(json!({ "seq": seq.0 })).into_response()),
        _ => Ok(Json(json!({})).into_response()),
    }
}

fn uids(fields: &mut Fields<'_>, field: &'static str) -> Vec<Uid> {
    let named: Vec<String> = fields.take(field, "a list of strings").unwrap_or_default();
    if named.len() > MEMBERS_PER_REQUEST_MAX {
        fields.problem(field, format!("has more than {MEMBERS_PER_REQUEST_MAX}"));
        return Vec::new();
    }
    let parsed: Vec<Uid> = named.iter().filter_map(|uid| uid.parse().ok()).collect();
    if parsed.len() < named.len() {
        fields.problem(field, "has a name that is not a valid uid");
    }
    parsed
}

fn random_gid() -> Result<Gid, ApiError> {
    const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bytes = [0u8; GID_BYTES];
    getrandom::fill(&mut bytes).map_err(|_| ApiError::new(ErrorCode::Internal, "no randomness"))?;
    let text: String = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte & 31)])).collect();
    name("gid", &text)
}
