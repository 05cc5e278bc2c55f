// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"chatrun.dev/operator/internal/streamer"
)

const peerToken = "peer-token-5c11"

// addresses are Addresses by name.
type addresses map[string]string

func (a addresses) Address(worker string) (string, bool) {
	address, ok := a[worker]
	return address, ok
}

// peer is another replica, which records what is asked.
type peer struct {
	mu       sync.Mutex
	conns    int
	requests []*http.Request
	answer   http.HandlerFunc
}

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests = append(p.requests, r)
	p.mu.Unlock()
	p.answer(w, r)
}

func (p *peer) seen() (tokens, requests, conns int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.requests {
		if r.Header.Get("Authorization") != "" {
			tokens++
		}
	}
	return tokens, len(p.requests), p.conns
}

func streams(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, ": live\n\n")
}

// start serves with an authority until the test ends.
func (p *peer) start(t *testing.T, authority *Authority) (address string) {
	t.Helper()
	server := httptest.NewUnstartedServer(p)
	server.TLS = authority.TLSConfig()
	server.EnableHTTP2 = true
	server.Config.ErrorLog = nil
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			p.mu.Lock()
			p.conns++
			p.mu.Unlock()
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func podOf(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: authoritySecret.Namespace, Name: name},
		Spec:       corev1.PodSpec{ServiceAccountName: "manager"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "fd00::1"}, {IP: "127.0.0.1"}}},
	}
}

func tokenFile(t *testing.T, token string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func self(context.Context) (string, error) {
	return "system:serviceaccount:" + authoritySecret.Namespace + ":manager", nil
}

var helloRun = streamer.Run{UID: "uid-1", Namespace: "default", Name: "hello"}

// TestPeers: a replica is asked over one connection for all runs, with what it
// has to know.
func TestPeers(t *testing.T) {
	client := fake.NewClientset(podOf("manager-a"))
	a := &peer{answer: streams}
	at := a.start(t, authorityOf(client, "manager-a"))
	peers := NewPeers(PeersOptions{
		Client: client, Namespace: authoritySecret.Namespace, Self: self, Authority: authorityOf(client, "manager-b"),
		Addresses: addresses{"manager-a": at}, TokenFile: tokenFile(t, peerToken+"\n"), Log: logr.Discard(),
	})
	t.Cleanup(peers.Close)
	for range 5 {
		body, err := peers.Open(t.Context(), "manager-a", helloRun, "X-1-2")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(body)
		if err != nil || string(raw) != ": live\n\n" {
			t.Errorf("%q, %v", raw, err)
		}
		_ = body.Close()
	}
	if tokens, requests, conns := a.seen(); tokens != 5 || requests != 5 || conns != 1 {
		t.Errorf("%d tokens, %d requests, %d connections", tokens, requests, conns)
	}
	r := a.requests[0]
	if r.Host != "manager-a.relay.chatrun.dev" || r.URL.String() != "/relay/v1/namespaces/default/chatruns/hello?uid=uid-1" ||
		r.Header.Get("Last-Event-ID") != "X-1-2" || r.Header.Get("Authorization") != "Bearer "+peerToken || r.ProtoMajor != 2 {
		t.Errorf("%s %s %v", r.Host, r.URL, r.Header)
	}
	gets := 0
	for _, action := range client.Actions() {
		if action.Matches("get", "pods") {
			gets++
		}
	}
	if gets != 1 {
		t.Errorf("%d looks at the Pod", gets)
	}
}

// TestNoTokenLeaves tries each way in which an address may not be a replica's.
func TestNoTokenLeaves(t *testing.T) {
	gone := metav1.NewTime(time.Now().Add(-time.Hour))
	draining := metav1.NewTime(time.Now().Add(20 * time.Second))
	for name, tc := range map[string]struct {
		change  func(*corev1.Pod)
		address func(string) string
		worker  string // whose certificate the server has
		err     string // "" if it is a replica
	}{
		"a replica":     {nil, nil, "manager-a", ""},
		"draining":      {func(p *corev1.Pod) { p.DeletionTimestamp, p.Finalizers = &draining, []string{"x/y"} }, nil, "manager-a", ""},
		"no such Pod":   {func(p *corev1.Pod) { p.Name = "another" }, nil, "manager-a", "not found"},
		"a stranger's":  {func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" }, nil, "manager-a", "another ServiceAccount"},
		"elsewhere":     {func(p *corev1.Pod) { p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}} }, nil, "manager-a", "does not have the address"},
		"no address":    {func(p *corev1.Pod) { p.Status.PodIPs = nil }, nil, "manager-a", "does not have the address"},
		"over":          {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, nil, "manager-a", "not running"},
		"long deleted":  {func(p *corev1.Pod) { p.DeletionTimestamp, p.Finalizers = &gone, []string{"x/y"} }, nil, "manager-a", "should be gone"},
		"a name":        {nil, func(s string) string { return strings.Replace(s, "127.0.0.1", "localhost", 1) }, "manager-a", "no IP address"},
		"a mapped IP":   {nil, func(s string) string { return strings.Replace(s, "127.0.0.1", "[::ffff:127.0.0.1]", 1) }, "manager-a", ""},
		"no port":       {nil, func(string) string { return "127.0.0.1" }, "manager-a", "no IP address"},
		"another's TLS": {nil, nil, "manager-c", "manager-a.relay.chatrun.dev"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := podOf("manager-a")
			if tc.change != nil {
				tc.change(pod)
			}
			client := fake.NewClientset(pod)
			server := &peer{answer: streams}
			at := server.start(t, authorityOf(client, tc.worker))
			if tc.address != nil {
				at = tc.address(at)
			}
			var log bytes.Buffer
			peers := NewPeers(PeersOptions{
				Client: client, Namespace: authoritySecret.Namespace, Self: self, Authority: authorityOf(client, "manager-b"),
				Addresses: addresses{"manager-a": at}, TokenFile: tokenFile(t, peerToken),
				Log: funcr.New(func(_, args string) { log.WriteString(args + "\n") }, funcr.Options{Verbosity: 10}),
			})
			t.Cleanup(peers.Close)
			for range 3 {
				body, err := peers.Open(t.Context(), "manager-a", helloRun, "")
				if err == nil {
					_ = body.Close()
				}
				if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("%v", err)
				}
			}
			tokens, _, conns := server.seen()
			if tc.err != "" && tokens > 0 || tc.err == "" && tokens != 3 || conns > 1 {
				t.Errorf("%d tokens left, over %d connections", tokens, conns)
			}
			if lines := strings.Count(log.String(), "\n"); strings.Contains(log.String(), peerToken) || (lines == 1) == (tc.err == "") {
				t.Errorf("the log: %s", &log)
			}
		})
	}
}

// TestPeerAnswers: what its answers mean.
func TestPeerAnswers(t *testing.T) {
	elsewhere := &peer{answer: streams}
	client := fake.NewClientset(podOf("manager-a"))
	away := elsewhere.start(t, authorityOf(client, "manager-a"))
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		is     error
		text   string
	}{
		"401":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, streamer.ErrRefused, "401"},
		"403":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, streamer.ErrRefused, "403"},
		"404":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, streamer.ErrNotOwner, ""},
		"421":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMisdirectedRequest) }, streamer.ErrNotOwner, ""},
		"503":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, nil, "503"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "https://"+away, http.StatusFound) }, nil, "302"},
		"a page":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, nil, "no stream"},
		"long head": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			w.WriteHeader(http.StatusOK)
		}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(podOf("manager-a"))
			server := &peer{answer: tc.answer}
			at := server.start(t, authorityOf(client, "manager-a"))
			peers := NewPeers(PeersOptions{
				Client: client, Namespace: authoritySecret.Namespace, Self: self, Authority: authorityOf(client, "manager-b"),
				Addresses: addresses{"manager-a": at}, TokenFile: tokenFile(t, peerToken), Log: logr.Discard(),
			})
			t.Cleanup(peers.Close)
			_, err := peers.Open(t.Context(), "manager-a", helloRun, "")
			if err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), peerToken) {
				t.Error(err)
			}
		})
	}
	if _, requests, _ := elsewhere.seen(); requests != 0 {
		t.Errorf("a redirect was followed %d times", requests)
	}
}

// TestTokenFile: what is no token is not sent.
func TestTokenFile(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "blank": " \n", "two lines": "a\nb", "endless": strings.Repeat("x", maxTokenBytes+1)} {
		p := &Peers{o: PeersOptions{TokenFile: tokenFile(t, content)}}
		if token, err := p.token(); err == nil || token != "" {
			t.Errorf("%s: %q", name, token)
		}
	}
	p := &Peers{o: PeersOptions{TokenFile: filepath.Join(t.TempDir(), "none")}}
	if _, err := p.token(); err == nil {
		t.Error("no file, and no error")
	}
}
