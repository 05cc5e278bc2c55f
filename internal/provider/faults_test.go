// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chatrun.dev/operator/internal/chatretry"
)

// quiet takes what servers say of broken connections, which are meant here.
var quiet = log.New(io.Discard, "", 0)

// listen runs a server that speaks in bytes: handle gets every connection, and
// it is closed afterwards.
func listen(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// swallow reads one HTTP/1.1 request.
func swallow(conn net.Conn) {
	if request, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
		_, _ = io.Copy(io.Discard, request.Body)
	}
}

// reset closes a connection so that the other side sees a reset.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

const streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

func TestTransportFaults(t *testing.T) {
	const part = "ff\r\n" + `data: {"choices":[{"delta":{"content":"a"}}]}`
	first := strings.SplitAfter(openAIGood, "\n\n")[1]
	chunk := func(s string) string { return hex(len(s)) + "\r\n" + s + "\r\n" }
	tests := []struct {
		name   string
		handle func(net.Conn)
		text   string
		class  chatretry.Class
		words  string
	}{
		{"closed before the answer", swallow, "", chatretry.ConnectionError, ""},
		{"reset before the answer", func(c net.Conn) { swallow(c); reset(c) }, "", chatretry.ConnectionError, "closed the connection"},
		{"no HTTP", func(c net.Conn) { swallow(c); write(c, "SSH-2.0-OpenSSH\r\n") }, "", chatretry.ConnectionError, "broke off"},
		{"a header without end", func(c net.Conn) { swallow(c); write(c, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1<<20)) }, "", chatretry.ConnectionError, ""},
		{"cut in the stream", func(c net.Conn) { swallow(c); write(c, streamHead+chunk(first)) }, "Grüße", chatretry.StreamInterrupted, "ended before"},
		{"cut in a chunk", func(c net.Conn) { swallow(c); write(c, streamHead+part) }, "", chatretry.StreamInterrupted, ""},
		{"clean end too early", func(c net.Conn) { swallow(c); write(c, streamHead+chunk(first)+"0\r\n\r\n") }, "Grüße", chatretry.StreamInterrupted, ""},
		{"end too early without length", func(c net.Conn) {
			swallow(c)
			write(c, "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"+first)
		}, "Grüße", chatretry.StreamInterrupted, ""},
		{"whole without length", func(c net.Conn) {
			swallow(c)
			write(c, "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"+openAIGood)
		}, openAIText1, "", ""},
		{"broken chunks", func(c net.Conn) { swallow(c); write(c, streamHead+"zz\r\n") }, "", chatretry.ConnectionError, "broke during"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var calls atomic.Int32
			address := listen(t, func(c net.Conn) { calls.Add(1); test.handle(c) })
			h := stream(t.Context(), client(t, Options{}), endpoint(OpenAI, "http://"+address), question)
			if got := class(t, h.err); got != test.class || h.text != test.text {
				t.Fatalf("%q, %v (%+v)", h.text, h.err, errors.Unwrap(h.err))
			}
			if h.err != nil {
				f := failure(t, h.err)
				checkMessage(t, f)
				if !strings.Contains(f.Message, test.words) {
					t.Errorf("message %q", f.Message)
				}
			}
			if n := calls.Load(); n != 1 {
				t.Errorf("%d connections for one call", n)
			}
		})
	}
}

func write(c net.Conn, s string) { _, _ = io.WriteString(c, s) }

func hex(n int) string {
	const digits = "0123456789abcdef"
	s := ""
	for ; n > 0; n /= 16 {
		s = string(digits[n%16]) + s
	}
	return s
}

// A reset in the middle of a stream: what was read stands, the rest is lost.
func TestResetInTheStream(t *testing.T) {
	heardPart := make(chan struct{})
	first := strings.SplitAfter(openAIGood, "\n\n")[1]
	address := listen(t, func(c net.Conn) {
		swallow(c)
		write(c, streamHead+hex(len(first))+"\r\n"+first+"\r\n")
		<-heardPart
		reset(c)
	})
	_, err := client(t, Options{}).Stream(t.Context(), endpoint(OpenAI, "http://"+address), question, func(Part) { close(heardPart) })
	if f := failure(t, err); f.Class != chatretry.ConnectionError || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v: %v", f, f.Err)
	}
}

func TestUnreachable(t *testing.T) {
	secure, bundle, _ := tlsServer(t, true, func(http.ResponseWriter, *http.Request) {})
	plain := serve(t, func(http.ResponseWriter, *http.Request) {})
	closed := listen(t, func(net.Conn) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := l.Addr().String()
	_ = l.Close()
	tests := []struct {
		name   string
		base   string
		bundle string
		dial   error
		words  string
	}{
		{name: "refused", base: "http://" + refusing, words: "refuses connections"},
		{name: "no such host", base: "https://example.com", dial: &net.DNSError{Err: "no such host", Name: "example.com", IsNotFound: true}, words: "does not exist"},
		{name: "no DNS", base: "https://example.com", dial: &net.DNSError{Err: "server misbehaving", IsTemporary: true}, words: "cannot be resolved"},
		{name: "no route", base: "https://example.com", dial: &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, words: "no route"},
		{name: "time-out", base: "https://example.com", dial: &net.OpError{Op: "dial", Err: timeoutError{}}, words: "took too long"},
		{name: "untrusted", base: secure.URL, words: "not trusted"},
		{name: "another's certificate", base: "https://other.example.org", bundle: bundle, words: "not trusted"},
		{name: "no TLS", base: strings.Replace(plain.URL, "http", "https", 1), words: "does not speak TLS"},
		{name: "closed in the handshake", base: "https://" + closed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := client(t, Options{})
			if test.dial != nil {
				c.routes.dial = func(*net.Dialer, context.Context, string, string) (net.Conn, error) { return nil, test.dial }
			} else if test.bundle != "" {
				redirect(c, secure.Listener.Addr().String())
			}
			to := endpoint(OpenAI, test.base)
			to.CABundle = test.bundle
			f := failure(t, stream(t.Context(), c, to, question).err)
			checkMessage(t, f)
			if f.Class != chatretry.ConnectionError || !strings.Contains(f.Message, test.words) {
				t.Errorf("%v: %v", f, f.Err)
			}
		})
	}
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

// slow serves a stream that stops after some text, until the test ends.
func slow(t *testing.T, text string) string {
	t.Helper()
	release := make(chan struct{})
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if text != "" {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, text)
			flush(w)
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	return server.URL
}

func TestHeaderTimeout(t *testing.T) {
	c := client(t, Options{HeaderTimeout: time.Millisecond})
	f := failure(t, stream(t.Context(), c, endpoint(OpenAI, slow(t, "")), question).err)
	if f.Class != chatretry.Timeout {
		t.Errorf("%v", f)
	}
	checkMessage(t, f)
}

// The caller's own end comes back as the caller put it, from wherever.
func TestCauseOfTheCaller(t *testing.T) {
	cause := errors.New("stop asked")
	first := strings.SplitAfter(openAIGood, "\n\n")[1]
	t.Run("before the call", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if err := stream(ctx, client(t, Options{}), endpoint(OpenAI, slow(t, "")), question).err; err != cause { //nolint:errorlint // As it is.
			t.Error(err)
		}
	})
	t.Run("before the header", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			cancel(cause)
			<-r.Context().Done()
		})
		for _, call := range []func(c *Client) error{
			func(c *Client) error { return stream(ctx, c, endpoint(OpenAI, server.URL), question).err },
			func(c *Client) error {
				_, _, err := c.Complete(ctx, endpoint(OpenAI, server.URL), question)
				return err
			},
		} {
			if err := call(client(t, Options{})); err != cause { //nolint:errorlint // As it is.
				t.Error(err)
			}
		}
	})
	t.Run("in the stream", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := client(t, Options{}).Stream(ctx, endpoint(OpenAI, slow(t, first)), question, func(Part) { cancel(cause) })
		if err != cause { //nolint:errorlint // As it is.
			t.Error(err)
		}
	})
	t.Run("after the answer was whole", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := client(t, Options{}).Stream(ctx, endpoint(Anthropic, slow(t, anthropicGood)), question, func(p Part) {
			if p.Text == ", Welt" { // The rest came with it.
				cancel(cause)
			}
		})
		if err != nil && err != cause { //nolint:errorlint // As it is.
			t.Error(err)
		}
	})
}

// http2Server speaks just enough HTTP/2 to answer every request with one frame
// of its choice. It counts the requests.
func http2Server(t *testing.T, answer func(stream uint32) []byte) (address, bundle string, requests *atomic.Int32) {
	t.Helper()
	certified, bundle, _ := tlsServer(t, true, func(http.ResponseWriter, *http.Request) {})
	requests = new(atomic.Int32)
	address = listen(t, func(conn net.Conn) {
		secure := tls.Server(conn, &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: []string{"h2"}})
		r := bufio.NewReader(secure)
		if _, err := r.Discard(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); err != nil {
			return
		}
		_, _ = secure.Write(frame(4, 0, nil)) // SETTINGS
		for {
			var head [9]byte
			if _, err := io.ReadFull(r, head[:]); err != nil {
				return
			}
			size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
			if _, err := r.Discard(size); err != nil {
				return
			}
			if head[3] == 1 { // HEADERS
				requests.Add(1)
				_, _ = secure.Write(answer(binary.BigEndian.Uint32(head[5:])))
			}
		}
	})
	return address, bundle, requests
}

// frame is an HTTP/2 frame.
func frame(kind byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, 0}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// What an HTTP/2 host takes back is a failure that is seen and counted, not
// something that net/http repeats in silence.
func TestHTTP2Refusals(t *testing.T) {
	rst := func(code uint32) func(uint32) []byte {
		return func(stream uint32) []byte { return frame(3, stream, binary.BigEndian.AppendUint32(nil, code)) }
	}
	tests := map[string]func(stream uint32) []byte{
		"REFUSED_STREAM":    rst(7),
		"CANCEL":            rst(8),
		"INTERNAL_ERROR":    rst(2),
		"PROTOCOL_ERROR":    rst(1),
		"ENHANCE_YOUR_CALM": rst(11),
		"GOAWAY": func(uint32) []byte {
			return frame(7, 0, []byte{0, 0, 0, 0, 0, 0, 0, 0}) // last stream 0, no error
		},
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			address, bundle, requests := http2Server(t, answer)
			c := client(t, Options{})
			redirect(c, address)
			to := endpoint(OpenAI, publicHost)
			to.CABundle = bundle
			f := failure(t, stream(t.Context(), c, to, question).err)
			if f.Class != chatretry.ConnectionError {
				t.Errorf("%v: %v", f, f.Err)
			}
			checkMessage(t, f)
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests for one call", n)
			}
			c.Close()
		})
	}
}

// A stream that an HTTP/2 host resets half-way is no end of the caller's.
func TestHTTP2ResetInTheStream(t *testing.T) {
	first := strings.SplitAfter(openAIGood, "\n\n")[1]
	server, bundle, _ := tlsServer(t, true, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, first)
		flush(w)
		panic(http.ErrAbortHandler)
	})
	c := client(t, Options{})
	redirect(c, server.Listener.Addr().String())
	to := endpoint(OpenAI, publicHost)
	to.CABundle = bundle
	h := stream(t.Context(), c, to, question)
	if f := failure(t, h.err); f.Class != chatretry.ConnectionError || h.text != "Grüße" {
		t.Errorf("%q, %v", h.text, f)
	}
}
