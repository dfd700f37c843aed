# ZooKeeper, stand-alone: plain `java` on Debian's jars (zookeeper.jar names the others it needs), because Debian's start
# script wants /etc and /var. A tick of 1 s allows sessions of 2 to 20 s. The admin server is off: it would listen on
# port 8080 of every address.
# shellcheck shell=bash disable=SC2154

prepare() {
    mkdir -p "$dir/data" "$dir/conf"
}

choose_ports() {
    read -r zookeeper_port < <(free_ports 1)
    echo "zookeeper_port=$zookeeper_port" > "$dir/ports"
    write_env "GANTRY_TEST_ZOOKEEPER=127.0.0.1:$zookeeper_port"
}

launch() {
    [[ -f /usr/share/java/zookeeper.jar ]] || die "ZooKeeper is not installed: run compose/install"
    cat > "$dir/conf/zoo.cfg" << CONF
tickTime=1000
dataDir=$dir/data
clientPort=$zookeeper_port
clientPortAddress=127.0.0.1
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=ruok,mntr,srvr,stat,cons,dump,wchs
autopurge.snapRetainCount=3
autopurge.purgeInterval=1
CONF
    [[ ! -f $dir/extra.conf ]] || cat "$dir/extra.conf" >> "$dir/conf/zoo.cfg"
    spawn java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true -Dzookeeper.jmx.log4j.disable=true \
        -Dorg.slf4j.simpleLogger.showDateTime=true "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS" \
        -Djava.awt.headless=true "-Djava.io.tmpdir=$dir/data" -XX:-UsePerfData \
        -cp "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar" org.apache.zookeeper.server.quorum.QuorumPeerMain "$dir/conf/zoo.cfg"
}

four_letter_word() {
    {
        exec 3<> "/dev/tcp/127.0.0.1/$zookeeper_port" || return 1
        printf '%s' "$1" >&3
        timeout 3 cat <&3 || true
        exec 3>&-
    } 2> /dev/null
}

ready() { [[ $(four_letter_word srvr) == *"Zookeeper version"* ]]; }

admin() { four_letter_word "$1"; }
