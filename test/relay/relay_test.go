// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package relay reads streams from one replica that another one has, with all that
// stands between them: the API server's tokens, Pods and Secrets, the rights of
// config/rbac, certificates and sockets. The replicas are in this process.
package relay

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/yaml"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/access"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
	"chatrun.dev/operator/test/harness"
)

const (
	home    = "chatrun-system"
	account = "manager"
	owner   = "manager-a"
	edge    = "manager-b"
	// patience is for what should take a moment, on a machine that is busy.
	patience = 30 * time.Second
)

var (
	run    = streamer.Run{UID: "uid-1", Namespace: "default", Name: "hello"}
	secret = types.NamespacedName{Namespace: home, Name: "chatrun-relay-ca"}
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // it complains if nobody says
	os.Exit(m.Run())
}

// cluster is a control plane with the manager's ServiceAccount.
type cluster struct {
	admin, manager kubernetes.Interface
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	g := NewWithT(t)
	plane, err := harness.StartControlPlane(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Errorf("stopping the control plane: %v", err)
		}
	})
	c := &cluster{}
	c.admin, err = kubernetes.NewForConfig(plane.Config)
	g.Expect(err).NotTo(HaveOccurred())
	_, err = c.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: home}}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	for _, name := range []string{account, "another"} {
		_, err = c.admin.CoreV1().ServiceAccounts(home).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		g.Expect(err).NotTo(HaveOccurred())
	}
	c.allow(t)
	config := rest.AnonymousClientConfig(plane.Config)
	config.QPS, config.BearerToken = -1, c.token(t, account)
	c.manager, err = kubernetes.NewForConfig(config)
	g.Expect(err).NotTo(HaveOccurred())
	return c
}

// allow gives the ServiceAccount the rights of config/rbac, and no others.
func (c *cluster) allow(t *testing.T) {
	t.Helper()
	g := NewWithT(t)
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: home, Name: account}}
	raw, err := os.ReadFile(filepath.Join(harness.Root(), "config", "rbac", "relay_role.yaml"))
	g.Expect(err).NotTo(HaveOccurred())
	role := &rbacv1.Role{}
	g.Expect(yaml.UnmarshalStrict(raw, role)).To(Succeed())
	role.Namespace = home
	_, err = c.admin.RbacV1().Roles(home).Create(t.Context(), role, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	_, err = c.admin.RbacV1().RoleBindings(home).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
	}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	// The harness made the ClusterRole for a user of its own.
	_, err = c.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "relay-test"}, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "manager-role"},
	}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
}

// token asks for one of a ServiceAccount, as the kubelet does.
func (c *cluster) token(t *testing.T, account string, audiences ...string) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: new(int64(3600))}}
	answer, err := c.admin.CoreV1().ServiceAccounts(home).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return answer.Status.Token
}

// pod makes the Pod of a replica, as a node would have it.
func (c *cluster) pod(t *testing.T, name, account string) {
	t.Helper()
	g := NewWithT(t)
	pod, err := c.admin.CoreV1().Pods(home).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "manager", Image: "none"}}},
	}, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIP, pod.Status.PodIPs = "127.0.0.1", []corev1.PodIP{{IP: "127.0.0.1"}}
	_, err = c.admin.CoreV1().Pods(home).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
}

// source tells of one run, and whose it is.
type source struct{ owner string }

func (s source) Find(context.Context, string, string) (streamer.View, error) {
	return streamer.View{Run: run, Status: status("Pending", 0), Owner: s.owner}, nil
}

func (s source) Created(string, string) (<-chan struct{}, func()) { return nil, func() {} }

func status(phase string, attempt int32) stream.Status {
	return stream.Status{UID: run.UID, Namespace: run.Namespace, Name: run.Name, Phase: phase, Attempt: attempt}
}

// addresses are where replicas say that they are.
type addresses map[string]string

func (a addresses) Address(worker string) (string, bool) {
	address, ok := a[worker]
	return address, ok
}

// serveOwner serves the relay endpoint of a replica, until the test ends.
func (c *cluster) serveOwner(t *testing.T, name string) (*streamer.Hub, string) {
	t.Helper()
	g := NewWithT(t)
	hub := streamer.NewHub()
	handler := streamer.NewHandler(hub, source{}, streamer.Anyone)
	authority := members.NewAuthority(c.manager, secret, name, logr.Discard())
	guard := access.NewRelayGuard(c.manager, access.NewSelf(c.manager), logr.Discard())
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	server := &http.Server{Handler: handler.Relay(guard), TLSConfig: authority.TLSConfig(), ReadHeaderTimeout: patience}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.ServeTLS(listener, "", "")
	}()
	t.Cleanup(func() {
		hub.Close()
		_ = server.Close()
		<-ended
	})
	return hub, listener.Addr().String()
}

// read reads the run at a replica that does not have it, to the stream's end.
func (c *cluster) read(t *testing.T, at addresses, token string) (code int, body string) {
	t.Helper()
	g := NewWithT(t)
	file := filepath.Join(t.TempDir(), "token")
	g.Expect(os.WriteFile(file, []byte(token), 0o600)).To(Succeed())
	peers := members.NewPeers(members.PeersOptions{
		Client: c.manager, Namespace: home, Self: access.NewSelf(c.manager).Name,
		Authority: members.NewAuthority(c.manager, secret, edge, logr.Discard()),
		Addresses: at, TokenFile: file, Log: logr.Discard(),
	})
	t.Cleanup(peers.Close)
	hub := streamer.NewHub()
	handler := streamer.NewHandler(hub, source{owner}, streamer.Anyone)
	handler.Peers = peers
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	t.Cleanup(hub.Close)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/namespaces/default/chatruns/hello/stream", http.NoBody)
	g.Expect(err).NotTo(HaveOccurred())
	answer, err := server.Client().Do(request)
	g.Expect(err).NotTo(HaveOccurred())
	raw, err := io.ReadAll(answer.Body)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(answer.Body.Close()).To(Succeed())
	return answer.StatusCode, string(raw)
}

// TestRelay reads at one replica what another one streams, and tries those who are
// none.
func TestRelay(t *testing.T) {
	c := newCluster(t)
	c.pod(t, owner, account)
	hub, address := c.serveOwner(t, owner)
	at := addresses{owner: address}
	hub.Begin(run, status("Streaming", 1))
	hub.Part(run.UID, 1, provider.Part{Kind: provider.Text, Text: "Hello from afar"})

	t.Run("the token of another audience is refused", func(t *testing.T) {
		g := NewWithT(t)
		code, body := c.read(t, at, c.token(t, account))
		g.Expect(code).To(Equal(http.StatusBadGateway))
		g.Expect(body).To(And(ContainSubstring("RelayRefused"), Not(ContainSubstring("Hello"))))
	})
	t.Run("so is one of another ServiceAccount", func(t *testing.T) {
		g := NewWithT(t)
		code, body := c.read(t, at, c.token(t, "another", access.RelayAudience))
		g.Expect(code).To(Equal(http.StatusBadGateway))
		g.Expect(body).To(And(ContainSubstring("RelayRefused"), Not(ContainSubstring("Hello"))))
	})
	t.Run("a replica reads", func(t *testing.T) {
		g := NewWithT(t)
		go func() {
			// The end comes once the reader is there.
			for hub.Readers() == 0 && t.Context().Err() == nil {
				select {
				case <-time.After(10 * time.Millisecond):
				case <-t.Context().Done():
				}
			}
			hub.Finish(run, streamer.End{Done: stream.Done{Status: status("Succeeded", 1), Bytes: int64(len("Hello from afar"))}})
		}()
		code, body := c.read(t, at, c.token(t, account, access.RelayAudience))
		g.Expect(code).To(Equal(http.StatusOK))
		g.Expect(body).To(ContainSubstring("Hello from afar"))
		g.Expect(strings.TrimSpace(body[strings.LastIndex(body, "event: "):])).To(HavePrefix("event: done"))
	})
}
