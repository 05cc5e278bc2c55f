// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxBody is the largest request that is read: Anthropic's own limit.
	maxBody = 32 << 20
	// readHeaderTimeout ends connections that never ask anything.
	readHeaderTimeout = time.Minute
)

// Server is a fake provider. It is an http.Handler for any server, and serves
// by itself with Listen or Serve.
type Server struct {
	script, titles Script
	key            func(Request) string
	keys, models   []string
	secure         bool

	ledger  *Ledger
	closing chan struct{}

	mu       sync.Mutex
	closed   bool
	url      string
	bundle   string
	servers  []*http.Server
	handlers sync.WaitGroup // requests under way; added to under mu
	serving  sync.WaitGroup // loops that accept
	conns    sync.WaitGroup // connections of our own servers
}

// Option configures a Server.
type Option func(*Server)

// Titles scripts the requests that do not stream.
func Titles(script Script) Option { return func(s *Server) { s.titles = script } }

// Key tells the runs apart: what it returns is Request.Key. N and Key are not
// set yet when it is asked.
func Key(key func(Request) string) Option { return func(s *Server) { s.key = key } }

// RequireKey refuses requests without one of these API keys, as the vendors do.
func RequireKey(keys ...string) Option { return func(s *Server) { s.keys = keys } }

// Models refuses requests for any other model, as the vendors do.
func Models(models ...string) Option { return func(s *Server) { s.models = models } }

// TLS makes Listen and Serve speak TLS with a certificate for loopback that
// CABundle vouches for, and thereby HTTP/2 to clients that know it.
func TLS() Option { return func(s *Server) { s.secure = true } }

// New returns a server that listens nowhere. A nil script answers everything
// with the default.
func New(script Script, options ...Option) *Server {
	s := &Server{
		script:  script,
		key:     func(r Request) string { return r.LastUser },
		ledger:  newLedger(),
		closing: make(chan struct{}),
	}
	for _, option := range options {
		option(s)
	}
	return s
}

// TB is what Start needs of a test or benchmark.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Start returns a server that listens on loopback until the test ends.
func Start(t TB, script Script, options ...Option) *Server {
	t.Helper()
	s := New(script, options...)
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatalf("starting the fake provider: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Listen serves on a TCP address until Close.
func (s *Server) Listen(address string) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	if err := s.Serve(l); err != nil {
		return errors.Join(err, l.Close())
	}
	return nil
}

// Serve serves on l, in goroutines of its own, until Close. URL and CABundle
// are those of the last listener.
func (s *Server) Serve(l net.Listener) error {
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: readHeaderTimeout,
		ErrorLog:          log.New(io.Discard, "", 0), // the client's errors are the test's to see
		Protocols:         new(http.Protocols),
		ConnState:         s.track(),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	scheme := "http://"
	bundle := ""
	if s.secure {
		certificate, pem, err := loopbackCertificate()
		if err != nil {
			return err
		}
		scheme, bundle = "https://", pem
		server.Protocols.SetHTTP2(true)
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return http.ErrServerClosed
	}
	s.url, s.bundle = scheme+l.Addr().String(), bundle
	s.servers = append(s.servers, server)
	s.serving.Go(func() {
		// It ends by Close; a listener that breaks is seen by its clients.
		if s.secure {
			_ = server.ServeTLS(l, "", "")
		} else {
			_ = server.Serve(l)
		}
	})
	return nil
}

// track counts the connections of one http.Server, whose goroutines end with them.
func (s *Server) track() func(net.Conn, http.ConnState) {
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	return func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			open[c] = true
			s.conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			if open[c] {
				delete(open, c)
				s.conns.Done()
			}
		case http.StateActive, http.StateIdle:
		}
	}
}

// URL is where the server listens, without a path: Anthropic's base URL, and
// with "/v1" OpenAI's.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url
}

// CABundle is the PEM certificate to trust with TLS, "" without.
func (s *Server) CABundle() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bundle
}

// Ledger returns what the server was asked.
func (s *Server) Ledger() *Ledger { return s.ledger }

// Close ends every response, also those on servers of the caller's own, and all
// listening, and returns when nothing of it runs any more. A handler that a
// server of the caller's own holds in a write to a client that does not read
// ends when that server closes the connection, so close that one first.
func (s *Server) Close() {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	servers := s.servers
	s.mu.Unlock()
	if first {
		close(s.closing)
	}
	for _, server := range servers {
		_ = server.Close() // the listener may be closed already
	}
	s.serving.Wait()
	s.handlers.Wait()
	s.conns.Wait()
}

// enter counts a request under way, unless the server is closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.handlers.Add(1)
	return true
}

// ServeHTTP answers the vendors' two paths, below any prefix, and GET /ledger.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		panic(http.ErrAbortHandler)
	}
	defer s.handlers.Done()
	vendor, known := vendorOf(r.URL.Path)
	switch {
	case r.URL.Path == "/ledger" && r.Method == http.MethodGet:
		s.ledger.ServeHTTP(w, r)
	case known && r.Method == http.MethodPost:
		s.answer(w, r, vendor)
	default:
		s.ledger.stray()
		e := apiError{
			vendor: OpenAI, status: http.StatusNotFound, kind: "invalid_request_error",
			message: "Invalid URL (" + r.Method + " " + r.URL.Path + ")",
		}
		e.header(w.Header(), 0, time.Time{})
		w.WriteHeader(e.status)
		_, _ = w.Write(e.body("")) // a client that went away is nobody's error
	}
}

// vendorOf tells the vendors apart by the path.
func vendorOf(path string) (Vendor, bool) {
	switch {
	case strings.HasSuffix(path, "/chat/completions"):
		return OpenAI, true
	case strings.HasSuffix(path, "/v1/messages"):
		return Anthropic, true
	default:
		return "", false
	}
}

// answer reads a request, counts it, and plays what it is answered with.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, vendor Vendor) {
	ask := Request{Vendor: vendor, Purpose: PurposeAnswer, Header: r.Header, Path: r.URL.Path}
	if vendor == Anthropic {
		ask.APIKey = r.Header.Get("X-Api-Key")
	} else if key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		ask.APIKey = key
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = ask.parse(body)
	}
	ask.Key = s.key(ask)
	e := s.ledger.arrive(&ask, time.Now())
	s.play(w, r, e, s.choose(ask, err))
}

// choose decides the response: what the vendor would refuse, or the script's.
func (s *Server) choose(ask Request, err error) Response {
	if len(s.keys) > 0 && !slices.Contains(s.keys, ask.APIKey) {
		return WrongKey(ask)
	}
	if err != nil {
		return unreadable(ask.Vendor, err)
	}
	check := checkOpenAI
	if ask.Vendor == Anthropic {
		check = checkAnthropic
	}
	if refusal := check(&ask); refusal != nil {
		return refusal.response()
	}
	if len(s.models) > 0 && !slices.Contains(s.models, ask.Model) {
		return UnknownModel(ask)
	}
	script, standard := s.script, Answer("Hello", " world", ".")
	if ask.Purpose == PurposeTitle {
		script, standard = s.titles, Answer(DefaultTitle)
	}
	if script != nil {
		if resp := script(ask); resp.kind != kindDefault {
			return resp
		}
	}
	return standard
}

// unreadable is the vendor's answer to a body that is none.
func unreadable(vendor Vendor, err error) Response {
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		if vendor == Anthropic {
			return AnthropicErrorResponse(http.StatusRequestEntityTooLarge, "request_too_large",
				"Request exceeds the maximum size")
		}
		return OpenAIErrorResponse(http.StatusRequestEntityTooLarge, "invalid_request_error", "",
			"Maximum content size limit exceeded")
	}
	if vendor == Anthropic {
		return AnthropicErrorResponse(http.StatusBadRequest, "invalid_request_error",
			"The request body is not valid JSON: "+err.Error())
	}
	return OpenAIErrorResponse(http.StatusBadRequest, "invalid_request_error", "",
		"We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "+
			"correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)")
}
