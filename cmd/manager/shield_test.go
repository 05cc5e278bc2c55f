// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// dial opens a TLS connection.
func dial(t *testing.T, address string) *tls.Conn {
	t.Helper()
	c, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	secure, ok := c.(*tls.Conn)
	if !ok {
		t.Fatal("not a TLS connection")
	}
	return secure
}

// leaf returns the certificate that is served.
func leaf(t *testing.T, address string) *x509.Certificate {
	t.Helper()
	c := dial(t, address)
	defer func() { _ = c.Close() }()
	return c.ConnectionState().PeerCertificates[0]
}

// TestTooMuch: header, URL and body have their bounds.
func TestTooMuch(t *testing.T) {
	e := start(t, nil)
	for name, tc := range map[string]struct {
		request string
		code    int
	}{
		"a header of 1 MiB":  {"GET " + helloPath + " HTTP/1.1\r\nHost: x\r\nX-Large: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", 431},
		"a path of 1 MiB":    {"GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
		"many headers":       {"GET " + helloPath + " HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Large: x\r\n", 1<<16) + "\r\n", 431},
		"a path of 16 KiB":   {"GET /" + strings.Repeat("x", 16<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
		"a ticket of 16 KiB": {"GET " + helloPath + "?ticket=" + strings.Repeat("x", 16<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
		"a ticket of 8 KiB":  {"GET " + helloPath + "?ticket=" + strings.Repeat("x", 8<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 401},
		"a token of 16 KiB":  {"GET " + helloPath + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + strings.Repeat("x", 16<<10) + "\r\n\r\n", 401},
		"a body of 2 MiB": {"POST /v1/namespaces/default/chatruns/hello/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token +
			"\r\nContent-Length: 2097152\r\n\r\n" + strings.Repeat(" ", 2<<20), 413},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, e.address)
			// The answer comes before everything was read, so writing may fail.
			go func() { _, _ = io.WriteString(c, tc.request) }()
			answer, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != tc.code {
				t.Errorf("%s", answer.Status)
			}
		})
	}
	t.Run("by HTTP/2", func(t *testing.T) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url+helloPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Large", strings.Repeat("x", 1<<20))
		// Depending on how much was sent by then, the client holds back, the
		// server answers, or it closes the connection.
		if answer, err := client(t, true).Do(r); err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Error(answer.Status)
			}
		}
		if code := e.code(t, http.MethodHead, helloPath, nil); code != http.StatusOK {
			t.Errorf("the next one: %d", code)
		}
	})
}

// TestTooSlow: whoever does not finish a handshake or a header is cut.
func TestTooSlow(t *testing.T) {
	e := start(t, func(s *streamServer) { s.headerTimeout = 100 * time.Millisecond })
	plain, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", e.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	half := dial(t, e.address)
	if _, err := io.WriteString(half, "GET "+helloPath+" HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]net.Conn{"handshake": plain, "header": half} {
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("a slow %s is not cut", name)
			}
		}
	}
}

// TestSlowBody is cut as well; and a stream that follows a body that came in
// time is not.
func TestSlowBody(t *testing.T) {
	const bodyTime = 50 * time.Millisecond
	read := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		read <- err
		if err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(4 * bodyTime):
			_, _ = io.WriteString(w, "still here")
		case <-r.Context().Done():
		}
	})
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			e := start(t, func(s *streamServer) { s.handler = bound(bodyTime, handler) })
			send := func(body io.Reader) (string, error) {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.url, body)
				if err != nil {
					t.Fatal(err)
				}
				answer, err := client(t, http2).Do(r)
				if err != nil {
					return "", err
				}
				defer func() { _ = answer.Body.Close() }()
				got, err := io.ReadAll(answer.Body)
				return string(got), err
			}
			got, err := send(strings.NewReader(`{"stream":true}`))
			if first := <-read; first != nil || err != nil || got != "still here" {
				t.Errorf("read: %v, then %q, %v", first, got, err)
			}
			slow, w := io.Pipe()
			go func() { _, _ = io.WriteString(w, `{"stream":`) }()
			_, _ = send(slow)
			_ = slow.Close()
			if err := <-read; err == nil {
				t.Error("a body that did not end was read")
			}
		})
	}
}

// TestOrigins: pages of others read where they are allowed to, and nowhere else.
func TestOrigins(t *testing.T) {
	const page = "https://app.example"
	preflight := http.Header{
		"Origin": {page}, "Access-Control-Request-Method": {"GET"}, "Access-Control-Request-Headers": {"authorization,if-none-match,last-event-id"}, "Authorization": nil,
	}
	for name, tc := range map[string]struct {
		args      []string
		preflight int
		allowed   string
	}{
		"off":           {nil, 405, ""},
		"on":            {[]string{"--stream-cors-allowed-origins=https://other.example, " + page}, 204, page},
		"for all":       {[]string{"--stream-cors-allowed-origins=*"}, 204, "*"},
		"on for others": {[]string{"--stream-cors-allowed-origins=https://other.example,http://app.example,https://app.example:8443"}, 204, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, nil, tc.args...)
			for what, header := range map[string]http.Header{"preflight": preflight, "refused": {"Origin": {page}, "Authorization": nil}, "read": {"Origin": {page}}} {
				method, want := http.MethodHead, http.StatusOK
				switch what {
				case "preflight":
					method, want = http.MethodOptions, tc.preflight
				case "refused":
					want = http.StatusUnauthorized
				}
				answer := e.do(t, client(t, true), method, helloPath, header)
				_ = answer.Body.Close()
				h := answer.Header
				if answer.StatusCode != want || h.Get("Access-Control-Allow-Origin") != tc.allowed || h.Get("Access-Control-Allow-Credentials") != "" {
					t.Errorf("%s: %s %v", what, answer.Status, h)
				}
				if tc.allowed == "" {
					continue
				}
				if what == "preflight" && (h.Get("Access-Control-Allow-Headers") != "authorization,if-none-match,last-event-id" || h.Get("Access-Control-Max-Age") != "600") {
					t.Errorf("preflight: %v", h)
				}
				if what != "preflight" && h.Get("Access-Control-Expose-Headers") != "Retry-After, Etag" {
					t.Errorf("%s: %v", what, h)
				}
			}
		})
	}
}

// TestLocal asks nobody who they are, but only about this machine.
func TestLocal(t *testing.T) {
	e := start(t, nil, "--stream-local")
	_, port, err := net.SplitHostPort(e.address)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{
		e.address: 200, "localhost:" + port: 200, "LOCALHOST": 200, "[::1]:" + port: 200, "[::1]": 200, "127.1.2.3": 200,
		"evil.example": 403, "evil.example:" + port: 403, "127.0.0.1.evil.example": 403, "10.0.0.1:" + port: 403, "[::]": 403,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, e.url+helloPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		answer, err := client(t, false).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %s", host, answer.Status)
		}
	}
	if code := e.code(t, http.MethodPost, ticketPath, nil); code != http.StatusNotFound {
		t.Errorf("a ticket where nobody is asked: %d", code)
	}
	if code := e.code(t, http.MethodGet, "/apis", nil); code != http.StatusNotFound {
		t.Errorf("/apis: %d", code)
	}
}

// TestComplaints: a panic is an error, a client's mistake is not.
func TestComplaints(t *testing.T) {
	log, logged := kept()
	for line, want := range map[string]string{
		"http: TLS handshake error from 10.0.0.1:1: EOF\n": `"level"=1 "msg"="connection" "problem"="http: TLS handshake error from 10.0.0.1:1: EOF"`,
		"http: panic serving 10.0.0.1:1: boom\n":           `"msg"="a request ended in a panic" "error"="http: panic serving 10.0.0.1:1: boom"`,
	} {
		before := len(logged())
		if n, err := fmt.Fprint(complaints{log}, line); n != len(line) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if got := strings.TrimSpace(logged()[before:]); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// TestNoBody: a request that is made without a server has none at all.
func TestNoBody(t *testing.T) {
	answer := httptest.NewRecorder()
	bound(time.Second, http.NotFoundHandler()).ServeHTTP(answer, &http.Request{Method: http.MethodGet})
	if answer.Code != http.StatusNotFound {
		t.Error(answer.Code)
	}
}

// TestBodyOfAGet: one that comes is thrown away, one that does not come ends the
// request: nobody would see that its reader left.
func TestBodyOfAGet(t *testing.T) {
	served := make(chan struct{}, 1)
	server := httptest.NewServer(bound(50*time.Millisecond, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served <- struct{}{} })))
	defer server.Close()
	for body, want := range map[string]int{"x": http.StatusOK, "": http.StatusBadRequest} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n%s", body); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if _ = c.Close(); answer.StatusCode != want || len(served) != map[int]int{200: 1, 400: 0}[want] {
			t.Errorf("body %q: %d, served %d", body, answer.StatusCode, len(served))
		}
		if len(served) > 0 {
			<-served
		}
	}
}
