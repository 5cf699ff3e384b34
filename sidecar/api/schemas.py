"""What the bodies of requests look like. Unknown fields are refused, and every text has a cap."""

from pydantic import BaseModel, ConfigDict, Field

from sidecar.control_types import GetOptions, Policy, RuleDirection, RuleOptions, ShareOptions

# Longer than any name, label, link or reference we accept further in; those checks give the better error.
MAX_NAME = 512
MAX_PATH = 4096
# An entry is at most 64 KiB, so a longer card could not be published.
MAX_CARD = 64 * 1024


class Body(BaseModel):
    """Base of all request bodies. Errors never repeat the input: it may hold a room code (T11)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class CreateRoom(Body):
    label: str | None = Field(None, max_length=MAX_NAME, description="How we call the room here; others do not see it.")


class JoinRoom(Body):
    room: str = Field(max_length=MAX_NAME, description="`general`, `local`, a code, or an `ollaswarm://room/` link.")
    label: str | None = Field(None, max_length=MAX_NAME)
    consent: bool = Field(False, description="The user read and agreed to what joining shows to others.")
    orch_mind: bool = Field(
        False, description="Speak with Orch-Mind's users: in `general`, or in the room of their code."
    )


class DiagnosePeer(Body):
    peer: str = Field(max_length=MAX_NAME, description="Key, unique prefix of a known one, or pinned name.")
    dial: bool = Field(False, description="Try it now; takes up to a minute.")


class LeaveRoom(Body):
    room: str = Field(max_length=MAX_NAME, description="Label or id.")


class Share(Body):
    what: str = Field(max_length=MAX_PATH, description="Adapter model, or absolute path of an adapter file or folder.")
    room: str = Field(max_length=MAX_NAME)
    name: str | None = Field(None, max_length=MAX_NAME)
    base: str | None = Field(None, max_length=MAX_NAME, description="Local base model; needed for a path.")
    description: str = Field("", max_length=MAX_CARD)
    license: str = Field("", max_length=MAX_NAME)
    tags: tuple[str, ...] = Field((), max_length=64)
    card: str | None = Field(None, max_length=MAX_CARD)
    suggest: bool = Field(False, description="Offer the model's template, system text and parameters as suggestions.")
    model: bool = Field(False, description="Offer the whole model, not an adapter.")

    def options(self) -> ShareOptions:
        return ShareOptions(**self.model_dump(exclude={"what", "room"}))


class ShareAll(Body):
    room: str = Field(max_length=MAX_NAME)
    on: bool = Field(description="Begin or end the rule.")
    models: bool = Field(False, description="Whole models too.")


class Unshare(Body):
    name: str = Field(max_length=MAX_NAME)
    room: str | None = Field(None, max_length=MAX_NAME, description="Only in this room.")


class Ref(Body):
    ref: str = Field(max_length=MAX_NAME, description="Name, publisher/name, or unique prefix of an entry digest.")


class Get(Ref):
    as_name: str | None = Field(None, max_length=MAX_NAME)
    install: bool = True
    force: bool = Field(False, description="Replace a model of that name which we did not install.")
    accept_suggestions: bool = False
    base: str | None = Field(None, max_length=MAX_NAME, description="Local base model, for what names none we have.")
    accept_unsigned: bool = Field(False, description="The user read and agreed that nobody signed it.")

    def options(self) -> GetOptions:
        return GetOptions(**self.model_dump(exclude={"ref"}))


class Rule(Body):
    direction: RuleDirection
    room: str = Field(max_length=MAX_NAME)
    publisher: str | None = Field(None, max_length=MAX_NAME, description="Key. Else every publisher that is trusted.")
    name: str | None = Field(None, max_length=MAX_NAME, description="Shell pattern for the adapter's name.")
    base: str | None = Field(None, max_length=MAX_NAME, description="Only for this local base model.")
    max_bytes: int | None = Field(None, ge=1)
    tag: str | None = Field(None, max_length=MAX_NAME)
    per_hour: int | None = Field(None, ge=1, description="Installs an hour at most.")
    models: bool = Field(False, description="Whole models too, with the settings they bring.")

    def options(self) -> RuleOptions:
        return RuleOptions(**self.model_dump())


class RuleId(Body):
    rule: str = Field(max_length=MAX_NAME)


class RunSync(Body):
    dry_run: bool = False


class Rollback(Body):
    name: str = Field(max_length=MAX_NAME, description="Adapter, or its model.")
    version: int | None = Field(None, ge=1, description="Else the one before.")


class Name(Body):
    name: str = Field(max_length=MAX_NAME)


class Key(Body):
    key: str = Field(max_length=MAX_NAME, description="64 hex characters, or the unique beginning of a known key.")


class Trust(Key):
    label: str | None = Field(None, max_length=MAX_NAME, description="A name for people, pinned to the key.")
    replace_label: bool = Field(False, description="Take the name from the key it is pinned to.")


class FollowBlocks(Key):
    on: bool = True


class InRoom(Body):
    room: str = Field(max_length=MAX_NAME, description="Label or id.")


class SetPolicy(Body):
    room: str = Field(max_length=MAX_NAME)
    policy: Policy


class Registry(Body):
    on: bool
    new_secret: bool = Field(False, description="Names with the old one cannot be pulled any more.")
    push: bool | None = Field(None, description="Whether `ollama push` shares; null leaves it as it is.")
    models: bool | None = Field(None, description="Whether whole models can be pulled, settings included.")


class File(Body):
    path: str = Field(max_length=MAX_PATH, description="Absolute path on this machine.")


class Export(Body):
    ref: str = Field(max_length=MAX_NAME)
    path: str = Field(max_length=MAX_PATH, description="Absolute path on this machine.")
    with_base: bool = False
    overwrite: bool = False


class Import(Body):
    path: str = Field(max_length=MAX_PATH, description="Absolute path on this machine.")
    as_name: str | None = Field(None, max_length=MAX_NAME)
    install: bool = True
    force: bool = Field(False, description="Replace a model of that name which we did not install.")

    def options(self) -> GetOptions:
        return GetOptions(**self.model_dump(exclude={"path"}))


class ErrorDetail(BaseModel):
    code: str
    cause: str
    next: str


class ErrorBody(BaseModel):
    """The body of every answer that is not 2xx."""

    error: ErrorDetail
