// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command failures writes docs/failures.md to its standard output. It plays
// every golden case to the real client, so the table says what the code does.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/provider/golden"
)

// maxSaid bounds what is shown of a provider's words: enough to know them by.
const maxSaid = 150

const intro = `<!-- Written by make generate from internal/provider/golden. Do not edit. -->
# What providers say, and what becomes of it

A failed attempt has a class. The class alone decides whether the run tries again; it stands in ` + "`status.lastErrorReason`" + `,
and the message, which is the operator's own, in ` + "`status.lastError`" + `. The provider's own words go to the manager's log, redacted.

Codes and types decide first, then permanent words, then the HTTP status; words come last, and only whole ones. A permanent
word beats a transient status. A ` + "`Retry-After`" + ` in any of its forms is the least that is waited.

Every row below is a test that runs against a real server; here the provider is called ` + "`vendor`" + ` and the model
` + "`some-model`" + `. Rows without a class are good answers, with their finish reason.
`

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "failures:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, to io.Writer) error {
	net.DefaultResolver = golden.Resolver()
	out := bufio.NewWriter(to)
	write := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) } // Flush tells.
	write("%s", intro)
	rows := 0
	for _, group := range golden.Groups() {
		write("\n## %s\n\n%s\n\n| who: what | HTTP | class | retried | message |\n|---|---|---|---|---|\n", group.Title, group.About)
		for _, c := range group.Cases {
			line, err := row(ctx, &c)
			if err != nil {
				return fmt.Errorf("playing %s, %s: %w", c.From, c.Name, err)
			}
			write("%s\n", line)
			rows++
		}
	}
	write("\n## Codes and types that decide alone\n\nUpper and lower case are the same; those of one type count for the other as well.\n\n| code or type | class | retried |\n|---|---|---|\n")
	for _, kind := range []provider.Type{provider.OpenAI, provider.Anthropic} {
		codes := provider.Codes(kind)
		for _, code := range slices.Sorted(maps.Keys(codes)) {
			write("| `%s` | %s | %s |\n", code, codes[code], yes(codes[code].Retryable()))
		}
	}
	write("\n## HTTP statuses of which nothing else is known\n\n| status | class | retried |\n|---|---|---|\n")
	for _, status := range []int{301, 400, 401, 402, 403, 404, 405, 408, 409, 413, 418, 422, 425, 429, 500, 501, 502, 503, 504, 505, 520, 529} {
		class := chatretry.ClassifyStatus(status)
		write("| %d | %s | %s |\n", status, class, yes(class.Retryable()))
	}
	write("\n%d rows of the first tables, each a test.\n", rows)
	return out.Flush()
}

// row plays a case and tells of it.
func row(ctx context.Context, c *golden.Case) (string, error) {
	got, err := c.Play(ctx)
	if err != nil {
		return "", err
	}
	what := c.From + ": " + c.Name
	if said := said(c.Body); said != "" {
		what += "<br>`" + said + "`"
	}
	status := "–"
	if c.Status != 0 {
		status = fmt.Sprint(c.Status)
	}
	f := got.Failure
	if f == nil {
		return fmt.Sprintf("| %s | %s | – | – | finish reason %s |", what, status, got.Result.FinishReason), nil
	}
	if f.HTTPStatus != 0 {
		status = fmt.Sprint(f.HTTPStatus)
	}
	retried := yes(f.Class.Retryable())
	if f.RetryAfter > chatretry.MaxRetryAfter {
		retried = fmt.Sprintf("no: the provider asks for %s", f.RetryAfter)
	} else if f.RetryAfter > 0 {
		retried += fmt.Sprintf(", after %s at least", f.RetryAfter)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |", what, status, f.Class, retried, f.Message), nil
}

// said is the beginning of a body, or of a stream's last event, in one line
// that a table can hold.
func said(body string) string {
	for event := range strings.SplitSeq(body, "\n\n") {
		if _, data, ok := strings.Cut(event, "data: "); ok && data != "[DONE]" {
			body = data
		}
	}
	text := []rune(strings.Join(strings.Fields(strings.NewReplacer("`", "'", "|", "/").Replace(body)), " "))
	if len(text) > maxSaid {
		return string(text[:maxSaid-1]) + "…"
	}
	return string(text)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
