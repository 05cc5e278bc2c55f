// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certutil "k8s.io/client-go/util/cert"
)

// TestProtocols: HTTPS of today, by either version of HTTP, and nothing else.
func TestProtocols(t *testing.T) {
	e := start(t, nil)
	for _, http2 := range []bool{false, true} {
		answer := e.do(t, client(t, http2), http.MethodHead, helloPath, nil)
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK || (answer.ProtoMajor == 2) != http2 || answer.TLS.Version < tls.VersionTLS12 {
			t.Errorf("%s %s", answer.Proto, answer.Status)
		}
		if h := answer.Header; h.Get("Referrer-Policy") != "no-referrer" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("headers %v", h)
		}
	}
	answer, err := client(t, false).Get("http://" + e.address + helloPath)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "HTTP request to an HTTPS server") {
		t.Errorf("plain HTTP: %s %s %v", answer.Status, body, err)
	}
	old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if c, err := (&tls.Dialer{Config: old}).DialContext(t.Context(), "tcp", e.address); err == nil {
		_ = c.Close()
		t.Error("TLS 1.1 is served")
	}
}

// TestSelfSigned: without a certificate it makes one, for this machine's names.
func TestSelfSigned(t *testing.T) {
	own := leaf(t, start(t, nil).address)
	if err := own.VerifyHostname("localhost"); err != nil {
		t.Error(err)
	}
	if err := own.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
}

// TestCertificateIsReadAgain when its files change.
func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	write := func(host string) {
		cert, key, err := certutil.GenerateSelfSignedCertKey(host, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("first.example")
	e := start(t, func(s *streamServer) { s.reload = 20 * time.Millisecond }, "--stream-cert-dir="+dir)
	if err := leaf(t, e.address).VerifyHostname("first.example"); err != nil {
		t.Error(err)
	}
	write("second.example")
	eventually(t, "the second certificate is served", func() bool { return leaf(t, e.address).VerifyHostname("second.example") == nil })
}

func TestCertificateIsMissing(t *testing.T) {
	s := &streamServer{address: "127.0.0.1:0", secure: true, certFile: filepath.Join(t.TempDir(), "tls.crt"), keyFile: "tls.key"}
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "reading the stream endpoint's certificate") {
		t.Errorf("error %v", err)
	}
}

func TestAddressIsTaken(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	s := &streamServer{address: taken.Addr().String()}
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "opening the stream endpoint") {
		t.Errorf("error %v", err)
	}
}

// TestShutdownEndsReaders: they get a last frame and a proper end, within the
// grace, and nobody is let in any more.
func TestShutdownEndsReaders(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			e := start(t, nil)
			e.hub.Begin(hello, phase("Streaming"))
			readers := make(chan error, 20)
			for range cap(readers) {
				answer := e.do(t, client(t, http2), http.MethodGet, helloPath, nil)
				until(t, answer.Body, "event: status")
				go func() {
					rest, err := io.ReadAll(answer.Body)
					_ = answer.Body.Close()
					if err == nil && !strings.Contains(string(rest), "event: status") {
						err = errors.New("no last status")
					}
					readers <- err
				}()
			}
			started := time.Now()
			if err := e.stop(); err != nil {
				t.Error(err)
			}
			if took := time.Since(started); took > streamGrace {
				t.Errorf("it took %v", took)
			}
			for range cap(readers) {
				if err := <-readers; err != nil {
					t.Errorf("a reader: %v", err)
				}
			}
			if c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", e.address); err == nil {
				_ = c.Close()
				t.Error("it listens still")
			}
		})
	}
}

// TestShutdownHasAnEnd, for a request that does not end by itself as well; and
// its context lives until then.
func TestShutdownHasAnEnd(t *testing.T) {
	entered, over := make(chan struct{}), make(chan struct{})
	closed := false
	e := start(t, func(s *streamServer) {
		s.grace = 100 * time.Millisecond
		s.closing = func() { closed = true }
		s.handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(entered)
			<-r.Context().Done()
			if !closed {
				t.Error("the request was ended before the readers were told")
			}
			close(over)
		})
	})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		answer, err := client(t, false).Do(r)
		if err == nil {
			_ = answer.Body.Close()
		}
		answered <- err
	}()
	<-entered
	started := time.Now()
	if err := e.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(started); took < 100*time.Millisecond || took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	<-over
	if err := <-answered; err == nil {
		t.Error("the request was answered")
	}
}

// TestEndpoint goes through the whole of it: refused, admitted, a ticket, and a
// log that holds no secret.
func TestEndpoint(t *testing.T) {
	e := start(t, nil)
	e.hub.Begin(hello, phase("Streaming"))
	if code := e.code(t, http.MethodGet, helloPath, http.Header{"Authorization": nil}); code != http.StatusUnauthorized {
		t.Errorf("nobody: %d", code)
	}
	answer := e.do(t, client(t, true), http.MethodPost, ticketPath, nil)
	var issued struct{ Ticket string }
	err := json.NewDecoder(answer.Body).Decode(&issued)
	_ = answer.Body.Close()
	if err != nil || answer.StatusCode != http.StatusCreated {
		t.Fatalf("%s %v", answer.Status, err)
	}
	reader := client(t, true)
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url+helloPath+"?ticket="+issued.Ticket, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err = reader.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	until(t, answer.Body, "event: status")
	leave()
	_ = answer.Body.Close()
	if code := e.code(t, http.MethodGet, helloPath+"?ticket=x"+issued.Ticket, http.Header{"Authorization": nil}); code != http.StatusUnauthorized {
		t.Errorf("a spoilt ticket: %d", code)
	}
	for path, want := range map[string]int{"/apis": 404, "/": 200, "/healthz": 404, "/v1/namespaces/default/chatruns/other/stream": 404} {
		if code := e.code(t, http.MethodGet, path, nil); code != want {
			t.Errorf("%s: %d", path, code)
		}
	}
	if err := e.stop(); err != nil {
		t.Error(err)
	}
	log := e.logged()
	if strings.Contains(log, issued.Ticket) || strings.Contains(log, token) || strings.Contains(log, "ticket=") {
		t.Errorf("a secret was logged: %s", log)
	}
	if lines := strings.Count(log, `"msg"="request"`); lines != 9 { // one more, as / leads to the page
		t.Errorf("%d lines of 9 requests: %s", lines, log)
	}
}

// TestPage: it is there unless it is turned off, and asks for a token unless nobody
// is asked.
func TestPage(t *testing.T) {
	for args, want := range map[string]string{
		"": `data-sign-in="token"`, "--stream-local": `data-sign-in="none"`, "--stream-page=false": "no such path",
	} {
		e := start(t, nil, strings.Fields(args)...)
		answer := e.do(t, client(t, false), http.MethodGet, "/ui/", nil)
		body, err := io.ReadAll(answer.Body)
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%q: %d %s, %v", args, answer.StatusCode, body, err)
		}
		if policy := answer.Header.Get("Content-Security-Policy"); (policy == "") != (answer.StatusCode != http.StatusOK) {
			t.Errorf("%q: %d with the policy %q", args, answer.StatusCode, policy)
		}
	}
}
