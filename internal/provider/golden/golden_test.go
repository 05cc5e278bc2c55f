// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"go.uber.org/goleak"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

func TestMain(m *testing.M) {
	net.DefaultResolver = Resolver()
	goleak.VerifyTestMain(m)
}

// usual are the messages of the classes, %s for the HTTP status. They stand
// here once more, so that a change of words is seen twice.
var usual = map[chatretry.Class]string{
	chatretry.RateLimited:           `provider "vendor" limits the rate of requests%s: another attempt may succeed; if it persists, ask the provider for a higher limit, or start fewer runs at once`,
	chatretry.Overloaded:            `provider "vendor" is overloaded%s: another attempt may succeed`,
	chatretry.ServerError:           `provider "vendor" failed%s: another attempt may succeed`,
	chatretry.Timeout:               `provider "vendor" timed out%s: another attempt may succeed`,
	chatretry.AuthenticationFailed:  `provider "vendor" refused the key%s: check the Secret that credentials.secretKeyRef names`,
	chatretry.PermissionDenied:      `provider "vendor" denies this request%s: check what the key may do`,
	chatretry.QuotaExhausted:        `the account at provider "vendor" has no quota left%s: check its plan and billing`,
	chatretry.ContextLengthExceeded: `the question to provider "vendor" is longer than model "some-model" can read%s: shorten it, or choose a model with a larger context`,
	chatretry.ModelNotFound:         `provider "vendor" has no model "some-model", or not for this key%s: check the run's model and the provider's defaultModel`,
	chatretry.InvalidRequest:        `provider "vendor" refuses the request%s: check model, parameters and baseURL; the manager's log has the provider's words`,
	chatretry.ContentFiltered:       `provider "vendor" refused to answer, or filtered the answer%s: change the question`,
}

// retried says once more which classes are retried.
var retried = []chatretry.Class{
	chatretry.RateLimited, chatretry.Overloaded, chatretry.ServerError, chatretry.Timeout,
	chatretry.ConnectionError, chatretry.StreamInterrupted, chatretry.WorkerLost,
}

// message is what the failure of a case has to say.
func (c *Case) message() string {
	if c.Want.Message != "" {
		return c.Want.Message
	}
	status := ""
	if c.Status != 0 && c.Status != 200 {
		status = fmt.Sprintf(" (HTTP %d)", c.Status)
	}
	return fmt.Sprintf(usual[c.Want.Class], status)
}

func TestCases(t *testing.T) {
	for _, group := range Groups() {
		for _, c := range group.Cases {
			t.Run(group.Title+"/"+c.From+"/"+c.Name, func(t *testing.T) {
				got, err := c.Play(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if c.Want.Class == "" {
					if got.Failure != nil || got.Result.FinishReason != c.Want.Finish || !strings.HasPrefix(got.Text, "Because") {
						t.Fatalf("%+v: %v", got, got.Failure)
					}
					return
				}
				f := got.Failure
				if f == nil {
					t.Fatalf("no failure, %+v", got)
				}
				status := c.Status + c.Want.Status
				if f.Class != c.Want.Class || f.Code != c.Want.Code || f.RetryAfter != c.Want.RetryAfter || f.HTTPStatus != status {
					t.Errorf("%s, HTTP %d, code %q, retry after %v\nwant %s, %d, %q, %v\n%v", f.Class, f.HTTPStatus, f.Code, f.RetryAfter,
						c.Want.Class, status, c.Want.Code, c.Want.RetryAfter, f.Err)
				}
				if want := slices.Contains(retried, c.Want.Class); f.Class.Retryable() != want || chatretry.IsRetryable(f) != want {
					t.Errorf("retried: %v", !want)
				}
				if f.Message != c.message() {
					t.Errorf("message %q\nwant    %q", f.Message, c.message())
				}
				check(t, f)
			})
		}
	}
}

// check checks what every failure promises, whatever was sent.
func check(t *testing.T, f *chatretry.Failure) {
	t.Helper()
	const maxMessage, maxLogged = 300, 2<<10 + 100
	if f.Message == "" || len(f.Message) > maxMessage || !utf8.ValidString(f.Message) || strings.IndexFunc(f.Message, unicode.IsControl) >= 0 {
		t.Errorf("message of %d bytes: %q", len(f.Message), f.Message)
	}
	for _, text := range []string{f.Message, f.Code, fmt.Sprint(f.Err), fmt.Sprintf("%#v", f.Err), fmt.Sprintf("%+v", f)} {
		if strings.Contains(text, Key) || strings.Contains(text, "1234567890") {
			t.Errorf("the key is in %q", text)
		}
	}
	if f.Err != nil && (len(f.Err.Error()) > maxLogged || strings.IndexFunc(f.Err.Error(), unicode.IsControl) >= 0) {
		t.Errorf("for the log %d bytes: %q", len(f.Err.Error()), f.Err.Error())
	}
}

// There are as many rows as were promised, for both vendors, and each has a
// name of its own.
func TestRows(t *testing.T) {
	rows := map[provider.Type]int{}
	seen := map[string]bool{}
	classes := map[chatretry.Class]bool{}
	for _, group := range Groups() {
		for _, c := range group.Cases {
			name := group.Title + "/" + c.From + "/" + c.Name
			if seen[name] {
				t.Errorf("%s stands twice", name)
			}
			seen[name] = true
			rows[c.Type]++
			classes[c.Want.Class] = true
		}
	}
	if rows[provider.OpenAI] < 60 || rows[provider.Anthropic] < 40 {
		t.Errorf("%v", rows)
	}
	for class := range usual {
		if !classes[class] {
			t.Errorf("no row of class %s", class)
		}
	}
	t.Log(rows)
}

// hostile is what a provider may put where a name or a sentence belongs.
func hostile() map[string]string {
	return map[string]string{
		"key":      "MARKED " + Key + " " + strings.ToUpper(Key),
		"pieces":   "MARKED " + Key[:12] + `\/` + Key[8:] + " " + strings.ReplaceAll(Key, "/", `\/`) + " " + strings.ReplaceAll(Key, "+", `\u002b`),
		"URL":      "MARKED https://u:" + Key + "@evil.example/path?a=MARKED&key=" + Key,
		"controls": `MARKED\n\r\t\u0000\u001b[31m\u2028 HTTP/1.1 200 OK`,
		"huge":     strings.Repeat("MARKED Authorization: Bearer "+Key+" ", 1<<20/50),
		"code":     "MARKED",
	}
}

// Nothing of what a provider sends comes through into a message, and nothing of
// the key comes through anywhere.
func TestHostileAnswers(t *testing.T) {
	members := []string{`"message":"`, `"type":"`, `"code":"`, `"param":"`, `"detail":"`, `"error":"`, `"stop_reason":"`, `"finish_reason":"`}
	for kind, text := range hostile() {
		t.Run(kind, func(t *testing.T) {
			for _, group := range Groups() {
				for i, c := range group.Cases {
					// The largest is for a few of each, or the test takes minutes.
					// A case without a key has none that could come back.
					if c.Status == 0 || c.keyless || kind == "huge" && i%16 != 0 {
						continue
					}
					for _, member := range members {
						c.Body = strings.ReplaceAll(c.Body, member, member+text)
					}
					c.Body += "\n" + text
					for _, name := range []string{"X-Request-Id", "Server", "Location", "Www-Authenticate", "Retry-After-Ms"} {
						c = c.with(name, strings.Join(strings.Fields(text[:min(len(text), 1000)]), " "))
					}
					got, err := c.Play(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if got.Failure == nil {
						continue // A stream that ended well before the text.
					}
					check(t, got.Failure)
					if strings.Contains(got.Failure.Message, "MARKED") || strings.Contains(got.Failure.Message, "://") {
						t.Errorf("%s: %q", c.Name, got.Failure.Message)
					}
					if kind != "code" && strings.Contains(got.Failure.Code, "MARKED") {
						t.Errorf("%s: code %q", c.Name, got.Failure.Code)
					}
					if strings.Contains(fmt.Sprint(got.Failure.Err), "?a=") {
						t.Errorf("%s: a query in %v", c.Name, got.Failure.Err)
					}
				}
			}
		})
	}
}

// What is no HTTP at all is repeated in the transport's own errors.
func TestHostileTransport(t *testing.T) {
	for _, line := range []string{
		"HTTP/1.1 " + Key + "\r\n\r\n", Key + " 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n" + Key + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: " + Key + "\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + strings.Repeat(Key, 1000) + "\r\n\r\n",
		streamHead + Key + "\r\n",
	} {
		c := Case{Type: provider.OpenAI, fault: func(s *stage) reach {
			return reach{base: "http://" + s.listen(func(conn net.Conn) { swallow(conn); _, _ = conn.Write([]byte(line)) })}
		}}
		got, err := c.Play(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got.Failure == nil {
			t.Fatalf("%q is an answer", line)
		}
		check(t, got.Failure)
	}
}

// Every code that the tables know decides at a status that says otherwise, and
// inside a stream, where there is none.
func TestCodes(t *testing.T) {
	for _, kind := range []provider.Type{provider.OpenAI, provider.Anthropic} {
		codes := provider.Codes(kind)
		if len(codes) == 0 {
			t.Fatal(kind)
		}
		for code, class := range codes {
			for _, member := range []string{"code", "type"} {
				body := `{"error":{"message":"…","` + member + `":"` + strings.ToUpper(code) + `"}}`
				for _, c := range []Case{
					answer(kind, "", code, http.StatusTeapot, body, Want{}),
					answer(kind, "", code, http.StatusInternalServerError, body, Want{}),
					answer(kind, "", code, http.StatusOK, "event: error\ndata: "+body+"\n\n", Want{}),
				} {
					got, err := c.Play(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if got.Failure == nil || got.Failure.Class != class {
						t.Errorf("%s %s as %s at %d: %v, want %s", kind, code, member, c.Status, got.Failure, class)
					}
				}
			}
		}
	}
}
