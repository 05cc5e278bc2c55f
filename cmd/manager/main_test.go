// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/access"
	"chatrun.dev/operator/internal/streamer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// token is good, and its user may read all runs.
	token      = "good-token-51c7"
	helloPath  = "/v1/namespaces/default/chatruns/hello/stream"
	ticketPath = "/v1/namespaces/default/chatruns/hello/ticket"
)

var hello = streamer.Run{UID: "uid-1", Namespace: "default", Name: "hello"}

// running is a source that knows one run, which is under way.
type running struct{}

func (running) Find(_ context.Context, namespace, name string) (streamer.View, error) {
	if namespace != hello.Namespace || name != hello.Name {
		return streamer.View{}, streamer.ErrNotFound
	}
	return streamer.View{Run: hello, Status: phase("Streaming")}, nil
}

func (running) Created(string, string) (<-chan struct{}, func()) { return nil, func() {} }

func phase(phase string) stream.Status {
	return stream.Status{UID: hello.UID, Namespace: hello.Namespace, Name: hello.Name, Phase: phase, Attempt: 1}
}

// reviewer is an API server that knows one user.
func reviewer() *fake.Clientset {
	c := fake.NewClientset()
	review := func(fill func(runtime.Object)) clienttesting.ReactionFunc {
		return func(action clienttesting.Action) (bool, runtime.Object, error) {
			create, ok := action.(clienttesting.CreateAction)
			if !ok {
				return false, nil, nil
			}
			object := create.GetObject().DeepCopyObject()
			fill(object)
			return true, object, nil
		}
	}
	c.PrependReactor("create", "tokenreviews", review(func(object runtime.Object) {
		if r, ok := object.(*authenticationv1.TokenReview); ok && r.Spec.Token == token {
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "jane"}}
		}
	}))
	c.PrependReactor("create", "subjectaccessreviews", review(func(object runtime.Object) {
		if r, ok := object.(*authorizationv1.SubjectAccessReview); ok {
			r.Status.Allowed = r.Spec.User == "jane"
		}
	}))
	return c
}

// endpoint is a stream endpoint that runs, with a log that is kept.
type endpoint struct {
	url, address string
	hub          *streamer.Hub
	// stop ends it as the end of the manager does, and returns what it returned.
	stop func() error
	// logged returns all that it wrote.
	logged func() string
}

// start starts the endpoint that the flags describe. change may change it.
func start(t *testing.T, change func(*streamServer), args ...string) *endpoint {
	t.Helper()
	o, err := parse(append([]string{"--worker-name=me", "--stream-bind-address=127.0.0.1:0"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	e := &endpoint{hub: streamer.NewHub()}
	var log logr.Logger
	log, e.logged = kept()
	server, err := o.stream.server(e.hub, running{}, access.Options{
		Client: reviewer(), TicketSecret: types.NamespacedName{Namespace: "ns", Name: "tickets"}, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(server)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", server.address)
	if err != nil {
		t.Fatal(err)
	}
	e.address = listener.Addr().String()
	e.url = "https://" + e.address
	if o.stream.local {
		e.url = "http://" + e.address
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.serve(ctx, listener) }()
	e.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := e.stop(); err != nil {
			t.Errorf("at the end: %v", err)
		}
	})
	return e
}

// kept returns a logger of everything, and what it wrote so far.
func kept() (logr.Logger, func() string) {
	var mu sync.Mutex
	var log bytes.Buffer
	return funcr.New(func(_, args string) {
			mu.Lock()
			defer mu.Unlock()
			log.WriteString(args + "\n")
		}, funcr.Options{Verbosity: 10}), func() string {
			mu.Lock()
			defer mu.Unlock()
			return log.String()
		}
}

// client takes any certificate, and keeps no connection.
func client(t *testing.T, http2 bool) *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: &http.Protocols{}}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// do sends a request with the good token unless the header says otherwise.
func (e *endpoint) do(t *testing.T, c *http.Client, method, path string, header http.Header) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, e.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	maps.Copy(r.Header, header)
	answer, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer
}

// code sends a request, and returns the code of the answer alone.
func (e *endpoint) code(t *testing.T, method, path string, header http.Header) int {
	t.Helper()
	answer := e.do(t, client(t, false), method, path, header)
	defer func() { _ = answer.Body.Close() }()
	return answer.StatusCode
}

// until reads up to a text.
func until(t *testing.T, r io.Reader, want string) {
	t.Helper()
	var got []byte
	for buffer := make([]byte, 512); !strings.Contains(string(got), want); {
		n, err := r.Read(buffer)
		got = append(got, buffer[:n]...)
		if err != nil && !strings.Contains(string(got), want) {
			t.Fatalf("%v after %q", err, got)
		}
	}
}

// eventually wants something to become true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal(what + ": not within the time")
		}
	}
}
