// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"chatrun.dev/operator/internal/chattest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client returns a client of its own connections for a server.
func client(t *testing.T, server *chattest.Server, http2 bool) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	if bundle := server.CABundle(); bundle != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(bundle)) {
			t.Fatal("the bundle holds no certificate")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// do makes a request, and returns its status, its body, and the error of either.
func do(t *testing.T, c *http.Client, r *http.Request) (int, string, error) {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer shut(resp.Body)
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// shut closes what a test is done with; how that ends is no concern of its.
func shut(c io.Closer) { _ = c.Close() }

// readLine reads up to a line that holds text.
func readLine(body *bufio.Reader, text string) error {
	for {
		line, err := body.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the stream ended before %q: %w", text, err)
		}
		if strings.Contains(line, text) {
			return nil
		}
	}
}

// waitFor waits on the ledger, and fails the test if ctx ends first.
func waitFor(t *testing.T, l *chattest.Ledger, done func(*chattest.Ledger) bool) {
	t.Helper()
	if err := l.WaitFor(t.Context(), done); err != nil {
		t.Fatal(err)
	}
}

// pipes is a listener in memory, whose connections a synctest bubble can wait on.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newPipes() *pipes { return &pipes{accepted: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.accepted <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
