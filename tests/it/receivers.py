"""What alerts are held against: `slack` and `pagerduty` read one message on standard input and fail if it is not one;
`smtp CERT KEY USER PASSWORD` is a mail server on 127.0.0.1 that insists on STARTTLS and a login, and prints its port,
then each mail it took, a JSON object a line; the mailbox of `full` is."""

import asyncio
import json
import ssl
import sys


def slack(message):
    from slack_sdk.models.blocks import Block

    assert set(message) <= {"text", "blocks", "unfurl_links"}, message.keys()
    assert 0 < len(message["text"]) <= 40000
    assert 0 < len(message["blocks"]) <= 50
    for raw, block in zip(message["blocks"], Block.parse_all(message["blocks"])):
        # What the model does not know it drops: nothing of ours may be dropped.
        assert block.to_dict() == raw, (block.to_dict(), raw)


# Of PagerDuty's published description of its Events API v2: the members, their types, which must be there.
EVENT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["routing_key", "event_action", "dedup_key", "payload"],
    "properties": {
        "routing_key": {"type": "string", "minLength": 32, "maxLength": 32},
        "event_action": {"enum": ["trigger", "acknowledge", "resolve"]},
        "dedup_key": {"type": "string", "minLength": 1, "maxLength": 255},
        "client": {"type": "string"},
        "payload": {
            "type": "object",
            "additionalProperties": False,
            "required": ["summary", "severity", "source"],
            "properties": {
                "summary": {"type": "string", "minLength": 1, "maxLength": 1024},
                "timestamp": {"type": "string", "format": "date-time"},
                "severity": {"enum": ["critical", "warning", "error", "info"]},
                "source": {"type": "string", "minLength": 1},
                "component": {"type": "string"},
                "group": {"type": "string"},
                "class": {"type": "string"},
                "custom_details": {"type": "object"},
            },
        },
    },
}


def pagerduty(event):
    import jsonschema

    checker = jsonschema.FormatChecker()
    jsonschema.validate(event, EVENT, format_checker=checker)


def smtp(certificate, key, user, password):
    from aiosmtpd.smtp import SMTP, AuthResult

    def login(server, session, envelope, mechanism, data):
        good = (data.login, data.password) == (user.encode(), password.encode())
        return AuthResult(success=good, handled=False)

    class Keep:
        async def handle_RCPT(self, server, session, envelope, address, options):
            if address.startswith("full@"):
                return "452 4.2.2 mailbox full"
            envelope.rcpt_tos.append(address)
            return "250 OK"

        async def handle_DATA(self, server, session, envelope):
            mail = {
                "tls": session.ssl is not None,
                "to": envelope.rcpt_tos,
                "text": envelope.content.decode(),
            }
            print(json.dumps(mail), flush=True)
            return "250 kept"

    async def serve():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        make = lambda: SMTP(
            Keep(),
            tls_context=context,
            require_starttls=True,
            authenticator=login,
            auth_required=True,
            hostname="localhost",
        )
        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(serve())


if sys.argv[1] == "smtp":
    smtp(*sys.argv[2:])
else:
    {"slack": slack, "pagerduty": pagerduty}[sys.argv[1]](json.load(sys.stdin))
