//! What a user reads when what a route does is wrong, word for word.

use super::refused;

#[test]
fn actions_that_cannot_be() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = "/1"
upstream = "shop"
redirect = "/x"

[[route]]
path = "/2"

[[route]]
path = "/3"
redirect = { to = "example.com", status = 200 }

[[route]]
path = "/4"
redirect = "https://{host}{1}"

[[route]]
path = { regex = "^/5(.*)" }
redirect = "https://{host}{1}"

[[route]]
path = "/6"
redirect = { status = 301 }

[[route]]
path = "/7"
respond = 99

[[route]]
path = "/8"
respond = { status = 204, body = "x" }

[[route]]
path = "/9"
redirect = "/{server}"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: this route has `upstream` and `redirect`
 --> evenkeel.toml:7:12
  |
6 | upstream = "shop"
  |            ------ the other one
7 | redirect = "/x"
  |            ^^^^
  |
  = help: keep one of them

error: this route leads nowhere
 --> evenkeel.toml:9:1
  |
9 | [[route]]
  | ^^^^^^^^^
  |
  = help: add `upstream = "shop"`, `split`, `redirect` or `respond`

error: `example.com` is not a target of a redirect
  --> evenkeel.toml:14:19
   |
14 | redirect = { to = "example.com", status = 200 }
   |                   ^^^^^^^^^^^^^
   |
   = help: write a path or a URL, such as "https://{host}{path}{query}"

error: 200 is not the status of a redirect
  --> evenkeel.toml:14:43
   |
14 | redirect = { to = "example.com", status = 200 }
   |                                           ^^^
   |
   = help: write 301, 302, 303, 307 or 308

error: `{1}` needs a regular expression
  --> evenkeel.toml:18:12
   |
18 | redirect = "https://{host}{1}"
   |            ^^^^^^^^^^^^^^^^^^^
   |
   = help: give the route `path = { regex = "..." }` with groups

error: a group of the regular expression is part of the host
  --> evenkeel.toml:22:12
   |
22 | redirect = "https://{host}{1}"
   |            ^^^^^^^^^^^^^^^^^^^
   |
   = help: write a slash before it

error: this redirect leads nowhere
  --> evenkeel.toml:26:12
   |
26 | redirect = { status = 301 }
   |            ^^^^^^^^^^^^^^^^
   |
   = help: add `to = "https://{host}{path}{query}"`

error: 99 is not the status of an answer
  --> evenkeel.toml:30:11
   |
30 | respond = 99
   |           ^^
   |
   = help: write a number from 200 to 599

error: an answer of status 204 has no body
  --> evenkeel.toml:34:22
   |
34 | respond = { status = 204, body = "x" }
   |                      ^^^
   |
   = help: remove the body, or write another status

error: unknown variable `{server}`
  --> evenkeel.toml:38:12
   |
38 | redirect = "/{server}"
   |            ^^^^^^^^^^^
   |
   = help: known here: host, authority, scheme, path, query, request_id, route

10 errors in evenkeel.toml
"##,
    );
}

#[test]
fn splits_that_cannot_be() {
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = "/1"
split = []

[[route]]
path = "/2"
split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]

[[route]]
path = "/3"
split = [{ upstream = "shop" }, { upstream = "shop", weight = 2 }]
split_by = { cookie = { name = "a b" } }

[[route]]
path = "/4"
split = [{ upstream = "shop", weight = 0 }]
split_by = "header"

[[route]]
path = "/5"
split = [{ upstream = "shop", share = 1 }]
split_by = { cookie = { max_age = "0s" } }

[[route]]
path = "/6"
split = "shop"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: `split` is empty
 --> evenkeel.toml:6:9
  |
6 | split = []
  |         ^^
  |
  = help: name an upstream, such as { upstream = "shop", weight = 1 }

error: `weight` is 10001, which is out of range
  --> evenkeel.toml:10:55
   |
10 | split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]
   |                                                       ^^^^^
   |
   = help: write a number from 0 to 10000

error: upstream `shop` is there twice
  --> evenkeel.toml:14:46
   |
14 | split = [{ upstream = "shop" }, { upstream = "shop", weight = 2 }]
   |                       ------ first used here ^^^^^^
   |
   = help: remove one, and give the other the sum of their weights

error: `a b` is no name for a cookie
  --> evenkeel.toml:15:32
   |
15 | split_by = { cookie = { name = "a b" } }
   |                                ^^^^^
   |
   = help: write 1 to 64 letters, digits or any of !#$%&'*+-.^_`|~

error: no part of the split has a weight
  --> evenkeel.toml:19:9
   |
19 | split = [{ upstream = "shop", weight = 0 }]
   |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: give one of them a `weight` above zero

error: unknown split_by `header`
  --> evenkeel.toml:20:12
   |
20 | split_by = "header"
   |            ^^^^^^^^
   |
   = help: known names: cookie, address

error: unknown key `share`
  --> evenkeel.toml:24:31
   |
24 | split = [{ upstream = "shop", share = 1 }]
   |                               ^^^^^
   |
   = help: known keys here: upstream, weight

error: 0ms is too short
  --> evenkeel.toml:25:35
   |
25 | split_by = { cookie = { max_age = "0s" } }
   |                                   ^^^^
   |
   = help: write at least "1s"

error: `split` cannot be the text "shop"
  --> evenkeel.toml:29:9
   |
29 | split = "shop"
   |         ^^^^^^
   |
   = help: write a list, such as ["...", "..."]

9 errors in evenkeel.toml
"##,
    );
    refused(
        r##"[[listener]]
bind = ":8080"

[[route]]
path = "/1"
upstream = "shop"
split = [{ upstream = "shop" }]

[[route]]
path = "/2"
split = []

[[route]]
path = "/3"
split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]

[[route]]
path = "/4"
split = [{ upstream = "shop" }, { upstream = "shop", weight = 2 }]
split_by = { cookie = { max_age = "400d" } }

[[route]]
path = "/5"
split = [{ upstream = "shop", weight = 0 }]

[[route]]
path = "/6"
upstream = "shop"
split_by = "address"

[upstream.shop]
servers = ["127.0.0.1:9001"]
"##,
        r##"
error: this route has `upstream` and `split`
 --> evenkeel.toml:7:9
  |
6 | upstream = "shop"
  |            ------ the other one
7 | split = [{ upstream = "shop" }]
  |         ^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: keep one of them

error: `split` is empty
  --> evenkeel.toml:11:9
   |
11 | split = []
   |         ^^
   |
   = help: name an upstream, such as { upstream = "shop", weight = 1 }

error: this part of the split leads nowhere
  --> evenkeel.toml:15:10
   |
15 | split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]
   |          ^^^^^^^^^^^^^^
   |
   = help: add `upstream = "shop"`

error: unknown upstream `shp`
  --> evenkeel.toml:15:39
   |
15 | split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]
   |                                       ^^^^^
   |
   = help: did you mean `shop`?

error: `weight` is 10001, which is out of range
  --> evenkeel.toml:15:55
   |
15 | split = [{ weight = 3 }, { upstream = "shp", weight = 10001 }]
   |                                                       ^^^^^
   |
   = help: write a number from 0 to 10000

error: upstream `shop` is there twice
  --> evenkeel.toml:19:46
   |
19 | split = [{ upstream = "shop" }, { upstream = "shop", weight = 2 }]
   |                       ------ first used here ^^^^^^
   |
   = help: remove one, and give the other the sum of their weights

error: `max_age` is longer than a year
  --> evenkeel.toml:20:12
   |
20 | split_by = { cookie = { max_age = "400d" } }
   |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: write at most "366d"

error: no part of the split has a weight
  --> evenkeel.toml:24:9
   |
24 | split = [{ upstream = "shop", weight = 0 }]
   |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: give one of them a `weight` above zero

warning: `split_by` does nothing without `split`
  --> evenkeel.toml:29:12
   |
29 | split_by = "address"
   |            ^^^^^^^^^
   |
   = help: remove it

8 errors, 1 warning in evenkeel.toml
"##,
    );
}
