"""Sessions, clients, raw bodies, AWS's clock, and what AWS's errors mean.

Credentials, regions, endpoints, signing, retries and error parsing are boto3's. Three things are
ours: the body of a Scan or GetRecords answer is set aside unparsed (botocore's `before-parse`
event), because decoding it attribute by attribute costs a hundred times what DuckDB needs; an
answer that was cut off is refused, where boto3 would read half of it; and every failure becomes one
of tailrace.errors, with the IAM action or the command that mends it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from tailrace import __version__
from tailrace.config import AwsConfig
from tailrace.errors import (
    AccessDenied,
    ConfigError,
    Retryable,
    SourceMissing,
    TailraceError,
    Terminal,
)

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 60
BOTO_ATTEMPTS = 4  # boto3's own, with its backoff; ours come on top (capture/retry.py)
CONNECTIONS = 64

RAW_BODIES = {"Scan", "BatchGetItem", "GetRecords"}
RAW_BODY = "TailraceBody"

# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
THROTTLES = {
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
TRANSIENT = {
    "ExpiredNextTokenException",
    "InternalFailureException",
    "InternalServerError",
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ResourceInUseException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "TransactionInProgressException",
}
DENIED = {"AccessDenied", "AccessDeniedException", "Forbidden", "403"}
BAD_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
MISSING = {
    "404",
    "ExportNotFoundException",
    "NoSuchBucket",
    "NoSuchKey",
    "ResourceNotFoundException",
    "TableNotFoundException",
}

CREDENTIALS_REMEDY = (
    "Check AWS_ACCESS_KEY_ID / AWS_SECRET_ACCESS_KEY / AWS_SESSION_TOKEN, AWS_PROFILE or the role"
    " of this machine; `aws sts get-caller-identity` shows who you are. Log in again if the"
    " session has expired."
)


@dataclass(frozen=True, repr=False)
class S3Access:
    """What another S3 client needs to act as boto3 would. Never printed."""

    key_id: str
    secret: str
    token: str | None
    region: str
    endpoint: str | None


def s3_access(settings: AwsConfig) -> S3Access:
    """boto3's credentials, region and endpoint for S3 now. Raises Terminal without credentials,
    ConfigError where no such profile is configured."""
    session = _session(settings)
    credentials = session.get_credentials()
    if credentials is None:
        raise Terminal("No AWS credentials for the warehouse's S3 files.", CREDENTIALS_REMEDY)
    frozen = credentials.get_frozen_credentials()
    return S3Access(
        key_id=frozen.access_key,
        secret=frozen.secret_key,
        token=frozen.token,
        region=session.region_name or "us-east-1",
        endpoint=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
    )


def _region(configured: str | None) -> str | None:
    """boto3 itself reads AWS_DEFAULT_REGION only; AWS's other SDKs read AWS_REGION, and first."""
    return configured or os.environ.get("AWS_REGION") or None


def _session(settings: AwsConfig) -> boto3.Session:
    try:
        return boto3.Session(region_name=_region(settings.region), profile_name=settings.profile)
    except ProfileNotFound as error:
        raise ConfigError(
            str(error), "Name a profile of ~/.aws/config in aws.profile or AWS_PROFILE."
        ) from error


class Aws:
    """Clients of one account and region, and AWS's time as its answers tell it.

    Thread-safe. Raises ConfigError where no region or no such profile is configured."""

    def __init__(self, settings: AwsConfig | None = None) -> None:
        self._session = _session(settings or AwsConfig())
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._seen: tuple[datetime, float] | None = None

    @property
    def region(self) -> str:
        """The region in use."""
        return self._session.region_name or "(none)"

    def client(self, service: str) -> Any:
        """The boto3 client of a service, e.g. `dynamodb`, made once."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def _make(self, service: str) -> Any:
        try:
            client = self._session.client(
                service,
                config=BotoConfig(
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                    read_timeout=READ_TIMEOUT_SECONDS,
                    retries={"mode": "standard", "total_max_attempts": BOTO_ATTEMPTS},
                    max_pool_connections=CONNECTIONS,
                    user_agent_extra=f"tailrace/{__version__}",
                ),
            )
        except NoRegionError as error:
            raise ConfigError(
                "No AWS region is configured.",
                "Set aws.region in tailrace.yaml, AWS_REGION, or a region in your profile.",
            ) from error
        client.meta.events.register("before-parse", _before_parse)
        client.meta.events.register("after-call.*.*", self._note_time)
        return client

    def _note_time(self, parsed: dict[str, Any], **_: Any) -> None:
        header = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if header:
            at = parsedate_to_datetime(header).astimezone(UTC)
            with self._lock:
                # An answer may have been on its way for a minute: time never goes back for it.
                if self._seen is None or at > self.now():
                    self._seen = (at, time.monotonic())

    def now(self) -> datetime:
        """AWS's time: never ahead of it, never going back, and at most a second behind the last
        answer (a Date header has whole seconds). The machine's own only before the first answer."""
        if self._seen is None:
            return datetime.now(UTC)
        at, monotonic = self._seen
        return at + timedelta(seconds=time.monotonic() - monotonic)


def _before_parse(
    operation_model: Any,
    response_dict: dict[str, Any],
    customized_response_dict: dict[str, Any],
    **_: Any,
) -> None:
    _require_whole(response_dict)
    if operation_model.name in RAW_BODIES and response_dict["status_code"] == 200:
        customized_response_dict[RAW_BODY] = response_dict["body"]
        response_dict["body"] = b"{}"


def _require_whole(response_dict: dict[str, Any]) -> None:
    """Raises IncompleteReadError for a body that is shorter than was promised. Of a streamed body,
    which is yet to be read, boto3 does so itself."""
    promised, body = response_dict["headers"].get("content-length"), response_dict["body"]
    if promised and isinstance(body, bytes) and len(body) < int(promised):
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=int(promised))


def call(
    operation: Callable[..., Any], action: str, resource: str, region: str, **arguments: Any
) -> dict[str, Any]:
    """One AWS call; a failure becomes a TailraceError that names `action` and `resource`."""
    with explained(action, resource, region):
        answer: dict[str, Any] = operation(**arguments)
        return answer


@contextmanager
def explained(action: str, resource: str, region: str) -> Iterator[None]:
    """Turns what boto3 raises inside into tailrace.errors. `action` is the IAM action, e.g.
    dynamodb:Scan; `resource` what it was asked of."""
    try:
        yield
    except ClientError as error:
        raise translate(error, action, resource, region) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise Terminal(f"No usable AWS credentials: {error}.", CREDENTIALS_REMEDY) from error
    except EndpointConnectionError as error:
        raise Retryable(
            f"{action} on {resource}: {error}",
            f"Check the network, the region ({region}) and AWS_ENDPOINT_URL.",
        ) from error
    except (ConnectionError, HTTPClientError, IncompleteReadError, HTTPError) as error:
        raise Retryable(
            f"{action} on {resource}: {error}", "The connection broke; run again."
        ) from error
    except ResponseParserError as error:
        raise Retryable(
            f"{action} on {resource}: {error}",
            "What answered is not AWS: a proxy, perhaps. If that stays when you run again, look at"
            " what lies between (AWS_ENDPOINT_URL, HTTPS_PROXY).",
        ) from error
    except BotoCoreError as error:
        raise Terminal(
            f"{action} on {resource}: {error}", "Check the AWS configuration (`aws configure`)."
        ) from error


def translate(error: ClientError, action: str, resource: str, region: str) -> TailraceError:
    """The TailraceError that says what an answer of AWS's means."""
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "") or str(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"{action} on {resource}: {code}: {message}"
    if code in BAD_CREDENTIALS:
        return Terminal(f"AWS refused the credentials. {said}", CREDENTIALS_REMEDY)
    if code in DENIED:
        return AccessDenied(
            f"No permission for {action}. {said}",
            f"Allow {action} on {resource} for the role or user that runs Tailrace"
            " (docs/iam.md has the whole policy).",
        )
    if code in MISSING:
        return SourceMissing(
            f"{resource} was not found in region {region}. {said}",
            f"Check the name and the region: aws.region is {region}.",
        )
    if code in THROTTLES:
        return Retryable(said, "AWS asks to slow down; run again, it goes on where it stopped.")
    if code in TRANSIENT or status >= 500:
        return Retryable(said, "AWS failed, not you; run again, it goes on where it stopped.")
    return Terminal(said, "AWS refused the request as such; see the message.")


def code_of(error: BaseException) -> str:
    """AWS's error code behind a TailraceError, or an empty text."""
    cause = error.__cause__
    if isinstance(cause, ClientError):
        return str(cause.response.get("Error", {}).get("Code", ""))
    return ""
