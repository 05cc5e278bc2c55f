// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

// link passes connections on, until it is cut.
type link struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	conns map[net.Conn]bool
	// passed counts connections.
	passed atomic.Int64
}

func newLink(to string) (*link, error) {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{listener: listener, to: to, conns: map[net.Conn]bool{}}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			l.passed.Add(1)
			go l.pass(conn)
		}
	}()
	return l, nil
}

func (l *link) pass(near net.Conn) {
	far, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", l.to)
	if err != nil {
		_ = near.Close()
		return
	}
	l.mu.Lock()
	l.conns[near], l.conns[far] = true, true
	l.mu.Unlock()
	both(near, far)
	l.mu.Lock()
	delete(l.conns, near)
	delete(l.conns, far)
	l.mu.Unlock()
}

// cut ends all connections that there are. New ones are passed on.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		_ = conn.Close()
	}
}

// both copies both ways, and closes both ends once one is closed.
func both(a, b io.ReadWriteCloser) {
	var once sync.Once
	done := func() { _, _ = a.Close(), b.Close() }
	var group sync.WaitGroup
	group.Go(func() { _, _ = io.Copy(a, b); once.Do(done) })
	group.Go(func() { _, _ = io.Copy(b, a); once.Do(done) })
	group.Wait()
}

// node is what a kubelet does for a port-forward.
type node struct {
	server *httptest.Server
	to     string
	// forwarded counts the connections of tunnels.
	forwarded atomic.Int64
}

// startNode makes a node with the manager's Pod on it.
func (w *world) startNode(ctx context.Context) error {
	w.node = &node{to: w.address}
	w.node.server = httptest.NewTLSServer(w.node)
	host, port, err := net.SplitHostPort(w.node.server.Listener.Addr().String())
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	machine := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: "chatrun-manager-0", Labels: map[string]string{
			"app.kubernetes.io/name": "chatrun-operator", "app.kubernetes.io/component": "manager",
		}},
		Spec: corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "manager", Image: "chatrun-operator"}}},
	}
	if err := errors.Join(w.plane.Client.Create(ctx, machine), w.plane.Client.Create(ctx, pod)); err != nil {
		return err
	}
	machine.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}
	machine.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	return errors.Join(w.plane.Client.Status().Update(ctx, machine), w.plane.Client.Status().Update(ctx, pod))
}

// ServeHTTP serves the path that the API server asks of a kubelet.
func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) < 3 || parts[0] != "portForward" {
		http.NotFound(w, r)
		return
	}
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, n, parts[2], "", options, time.Hour, patience, portforward.SupportedProtocols)
}

// PortForward implements portforward.PortForwarder.
func (n *node) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	if port != 8090 {
		return fmt.Errorf("nobody listens on port %d", port)
	}
	n.forwarded.Add(1)
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", n.to)
	if err != nil {
		return err
	}
	both(conn, stream)
	return nil
}

func encode(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }
