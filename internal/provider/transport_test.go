// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"chatrun.dev/operator/internal/chatretry"
)

// publicHost is a name in the certificates of httptest that looks public.
const publicHost = "https://example.com"

// redirect makes a client reach a server whatever it dials.
func redirect(c *Client, address string) {
	c.routes.dial = func(d *net.Dialer, ctx context.Context, network, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, address)
	}
}

// tlsServer starts a server, and returns it with the PEM of its certificate
// and a count of its connections.
func tlsServer(t testing.TB, http2 bool, handler http.HandlerFunc) (server *httptest.Server, bundle string, connections *atomic.Int32) {
	t.Helper()
	connections = new(atomic.Int32)
	server = httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = http2
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Config.ErrorLog = quiet
	server.StartTLS()
	t.Cleanup(server.Close)
	bundle = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return server, bundle, connections
}

// crowd makes n calls at once to a server that answers none before all of them
// have arrived, and returns the protocols that it saw.
func crowd(t *testing.T, n int, http2 bool, base func(*httptest.Server) string) (protocols map[string]int, connections int, r *route) {
	t.Helper()
	var mu sync.Mutex
	protocols = map[string]int{}
	var arrived sync.WaitGroup
	arrived.Add(n)
	server, bundle, count := tlsServer(t, http2, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		protocols[r.Proto]++
		mu.Unlock()
		arrived.Done()
		arrived.Wait()
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, openAIGood)
	})
	c := client(t, Options{})
	redirect(c, server.Listener.Addr().String())
	to := endpoint(OpenAI, base(server))
	to.CABundle = bundle
	var calls sync.WaitGroup
	for range n {
		calls.Go(func() {
			if h := stream(t.Context(), c, to, question); h.err != nil || h.text != openAIText1 {
				t.Errorf("%q %v", h.text, h.err)
			}
		})
	}
	calls.Wait()
	for _, r = range c.routes.known {
	}
	return protocols, int(count.Load()), r
}

// More streams than maxConnsPerHTTP2Host, all open at once, by whatever
// protocol the host turns out to speak: none waits for another.
func TestManyStreamsAtOnce(t *testing.T) {
	const n = 5 * maxConnsPerHTTP2Host
	public := func(*httptest.Server) string { return publicHost }
	t.Run("HTTP/2", func(t *testing.T) {
		protocols, connections, _ := crowd(t, n, true, public)
		if protocols["HTTP/2.0"] != n || connections > maxConnsPerHTTP2Host {
			t.Errorf("%v by %d connections", protocols, connections)
		}
	})
	t.Run("a public host that speaks HTTP/1.1 alone", func(t *testing.T) {
		protocols, connections, r := crowd(t, n, false, public)
		if protocols["HTTP/1.1"] != n || !r.onlyHTTP1.Load() {
			t.Errorf("%v", protocols)
		}
		if lost := connections - n; lost > maxConnsPerHTTP2Host {
			t.Errorf("%d handshakes to learn the protocol", lost)
		}
	})
	t.Run("a host in the cluster that speaks HTTP/2", func(t *testing.T) {
		protocols, _, _ := crowd(t, n, true, func(s *httptest.Server) string { return s.URL })
		if protocols["HTTP/1.1"] != n {
			t.Errorf("%v", protocols)
		}
	})
}

// A host whose connections end goes on being reached: none is counted for ever.
func TestHTTP2ConnectionsThatEnd(t *testing.T) {
	server, bundle, connections := tlsServer(t, true, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // GOAWAY
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, openAIGood)
	})
	c := client(t, Options{})
	redirect(c, server.Listener.Addr().String())
	to := endpoint(OpenAI, publicHost)
	to.CABundle = bundle
	const n = 3 * maxConnsPerHTTP2Host
	for range n {
		if h := stream(t.Context(), c, to, question); h.err != nil {
			t.Fatal(h.err)
		}
	}
	if got := connections.Load(); got < n {
		t.Errorf("%d connections for %d calls", got, n)
	}
}

// A finished stream leaves a connection that the next one uses.
func TestConnectionsAreReused(t *testing.T) {
	for kind, body := range map[Type]string{OpenAI: openAIGood, Anthropic: anthropicGood} {
		server, bundle, connections := tlsServer(t, false, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for piece := range strings.SplitAfterSeq(body, "\n\n") {
				_, _ = io.WriteString(w, piece)
				flush(w)
			}
		})
		to := endpoint(kind, server.URL)
		to.CABundle = bundle
		c := client(t, Options{})
		for range 5 {
			if h := stream(t.Context(), c, to, question); h.err != nil {
				t.Fatal(h.err)
			}
		}
		if got := connections.Load(); got != 1 {
			t.Errorf("%s: %d connections", kind, got)
		}
	}
}

// A server that sends its last event and holds the connection holds nobody.
func TestTerminalEventEndsTheCall(t *testing.T) {
	release := make(chan struct{})
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, anthropicGood)
		flush(w)
		<-release
	})
	defer close(release)
	if h := stream(t.Context(), client(t, Options{}), endpoint(Anthropic, server.URL), question); h.err != nil || h.text != anthropicGoodText {
		t.Errorf("%q %v", h.text, h.err)
	}
}

func TestRoutesAreBounded(t *testing.T) {
	c := client(t, Options{})
	to := func(i int) *route {
		r, err := c.routes.to(&url.URL{Scheme: "https", Host: fmt.Sprintf("host-%d.example.com", i)}, "")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first, second := to(0), to(1)
	for i := 2; i < maxRoutes; i++ {
		to(i)
	}
	if to(0) != first {
		t.Error("a known route was made anew")
	}
	to(maxRoutes)
	if len(c.routes.known) != maxRoutes {
		t.Errorf("%d routes", len(c.routes.known))
	}
	if to(0) != first {
		t.Error("a route in use was forgotten")
	}
	if to(1) == second {
		t.Error("the oldest route was kept")
	}
	other, err := c.routes.to(&url.URL{Scheme: "http", Host: "host-0.example.com"}, "")
	if err != nil || other == first {
		t.Errorf("schemes share a route: %v", err)
	}
}

func TestTransportSettings(t *testing.T) {
	c := client(t, Options{})
	r, err := c.routes.to(&url.URL{Scheme: "https", Host: "api.example.com"}, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, transport := range map[string]*http.Transport{"http1": r.http1, "http2": r.http2} {
		if transport.Proxy != nil || !transport.DisableCompression || transport.MaxIdleConnsPerHost < 1000 ||
			transport.ResponseHeaderTimeout != 0 || transport.ReadBufferSize != 2<<10 || transport.WriteBufferSize != 1<<10 {
			t.Errorf("%s: %+v", name, transport)
		}
	}
	if r.http1.MaxConnsPerHost != 0 || r.http1.Protocols.HTTP2() {
		t.Error("HTTP/1.1 is bounded, or not alone")
	}
	h2 := r.http2.HTTP2
	if r.http2.MaxConnsPerHost != 8 || h2.MaxReceiveBufferPerStream != 64<<10 || h2.StrictMaxConcurrentRequests ||
		h2.SendPingTimeout == 0 || h2.PingTimeout == 0 {
		t.Errorf("HTTP/2: %d, %+v", r.http2.MaxConnsPerHost, h2)
	}
}

// egress is an HTTP proxy that notes what it was asked, and connects every
// tunnel to one address.
type egress struct {
	mu     sync.Mutex
	asked  []string
	refuse int    // status for CONNECT
	target string // where tunnels lead
}

func (e *egress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.asked = append(e.asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Proxy-Authorization"))
	e.mu.Unlock()
	if e.refuse != 0 {
		w.WriteHeader(e.refuse)
		return
	}
	if r.Method != http.MethodConnect {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, openAIGood)
		return
	}
	there, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", e.target)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = there.Close()
		return
	}
	// Either side's end ends the tunnel.
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(there, buffered); _ = there.Close() })
	both.Go(func() { _, _ = io.Copy(here, there); _ = here.Close() })
	both.Wait()
}

func TestProxy(t *testing.T) {
	secure, bundle, _ := tlsServer(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, strings.Replace(openAIGood, "Welt", r.Proto, 1))
	})
	plain := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, openAIGood)
	})
	plainURL, _ := url.Parse(plain.URL)
	tests := []struct {
		name    string
		base    string
		noProxy string
		refuse  int
		asked   string
		text    string
		class   chatretry.Class
		words   string
	}{
		{name: "http", base: "http://vllm.example.com/v1", asked: "POST http://vllm.example.com/v1/chat/completions Basic dTpwdw==", text: openAIText1},
		{name: "https, tunnelled, HTTP/2", base: publicHost, asked: "CONNECT example.com:443 Basic dTpwdw==", text: "Grüße, \"HTTP/2.0\"\n"},
		{name: "exempt", base: plain.URL, noProxy: plainURL.Host, text: openAIText1},
		{name: "refused tunnel", base: publicHost, refuse: 403, asked: "CONNECT example.com:443 Basic dTpwdw==", class: chatretry.ConnectionError, words: "egress proxy"},
		{name: "link-local", base: "http://169.254.169.254", class: chatretry.InvalidRequest, words: "never calls"},
		{name: "link-local, disguised", base: "http://0xA9FEA9FE", class: chatretry.InvalidRequest, words: "never calls"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			proxy := &egress{refuse: test.refuse, target: secure.Listener.Addr().String()}
			server := httptest.NewServer(proxy)
			defer server.Close()
			// The proxy itself may stand where providers may not.
			options := Options{EgressProxy: "http://u:pw@" + server.Listener.Addr().String(), NoProxy: test.noProxy}
			if test.noProxy == "" {
				options.DenyCIDRs = []string{"127.0.0.0/8"}
			}
			c := client(t, options)
			defer c.Close()
			to := endpoint(OpenAI, test.base)
			if strings.HasPrefix(test.base, "https") {
				to.CABundle = bundle
			}
			h := stream(t.Context(), c, to, question)
			if got := class(t, h.err); got != test.class || h.text != test.text {
				t.Fatalf("%q, %v", h.text, h.err)
			}
			if h.err != nil {
				f := failure(t, h.err)
				checkMessage(t, f)
				if !strings.Contains(f.Message, test.words) || strings.Contains(fmt.Sprintf("%v %v", f, f.Err), "pw") {
					t.Errorf("%v: %v", f, f.Err)
				}
			}
			if got := strings.Join(proxy.asked, "; "); got != test.asked {
				t.Errorf("asked the proxy %q, want %q", got, test.asked)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for _, options := range []Options{
		{EgressProxy: "proxy:3128"}, {EgressProxy: "https://proxy"}, {EgressProxy: "http://"}, {EgressProxy: "http://u:pw@ho st"},
		{NoProxy: "10.0.0.0/99"}, {DenyCIDRs: []string{"10.0.0.0"}},
	} {
		if _, err := New(options); err == nil || strings.Contains(err.Error(), "pw") {
			t.Errorf("%+v: %v", options, err)
		}
	}
}
